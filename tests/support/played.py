"""The test's side of the played docker and kubectl: what they should do, and what they were asked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Fakes:
    folder: Path

    def play(
        self,
        *,
        log: Path,
        exit_status: int | None = None,
        pods: list[dict[str, Any]] | None = None,
        pull_s: float = 0.0,
    ) -> None:
        (self.folder / "play.json").write_text(
            json.dumps({"log": str(log), "exit": exit_status, "pods": pods or [], "pull_s": pull_s})
        )

    def refuses_to_run(self) -> None:
        (self.folder / "play.json").write_text(json.dumps({"run_fails": True, "exit": None}))

    def breaks(self) -> None:
        (self.folder / "play.json").write_text(json.dumps({"broken": True}))

    @property
    def calls(self) -> list[dict[str, Any]]:
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def argv(self, *begins: str) -> list[list[str]]:
        """The calls that have these words, in this order, at their beginning or after --namespace's value."""
        found = []
        for call in self.calls:
            words = call["argv"]
            bare = [words[0], *(words[3:] if words[1] == "--namespace" else words[1:])]
            if bare[: len(begins)] == list(begins):
                found.append(words)
        return found
