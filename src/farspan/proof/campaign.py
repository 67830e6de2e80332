"""The state of a proof: which steps are done of which engine, as plain JSON that a kill at any moment leaves whole."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from farspan.errors import InputError

STATE_FILE = "campaign.json"
_LOCK_FILE = "campaign.lock"
FORMAT = 1


class Step(StrEnum):
    """What is done for an engine, in this order. The server is started again for what needs it and is not done."""

    MEASURED = "measured"
    LOADED = "loaded"
    EXAMINED = "examined"


@dataclass(slots=True)
class EngineProgress:
    """How far the proof of one engine is.

    Args:
        name: Its name in the campaign, and of its folder.
        engine: The engine; empty for a server whose engine is not known yet.
        version: Its version.
        steps: The steps done.
        starts: How often its server was started.
        failed: Why it did not start, or could not be measured; empty otherwise.
        fix: What to do about that.
        right: Whether every request was sent, answered and right; None before all are.
        flags: What its server was started with.
        planned_start_s, ready_s: How long the start should have taken, and took.
        compared: What the engine got beside the plan: `what`, `planned`, `got`.
        findings: What the doctor found, the worst first: `id`, `severity`, `cause`, `fix`.
    """

    name: str
    engine: str = ""
    version: str = ""
    steps: list[str] = field(default_factory=list)
    starts: int = 0
    failed: str = ""
    fix: str = ""
    right: bool | None = None
    flags: str = ""
    planned_start_s: float | None = None
    ready_s: float | None = None
    compared: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: everything is done, or it failed."""
        return bool(self.failed) or Step.EXAMINED in self.steps

    @property
    def good(self) -> bool:
        """Whether it started, and answered everything right."""
        return self.is_over and not self.failed and self.right is True

    def forget_failure(self) -> None:
        """Let it be tried again; what was measured stays."""
        self.failed = self.fix = ""
        self.right = None
        self.findings = []
        self.steps = []


class Campaign:
    """An open campaign folder. Use it as a context manager: only one program may go on with it at a time.

    Args:
        folder: Made when it is missing.
        settings: What the proof is of: it can only be gone on with under the same. JSON values.
        seed: Decides the prompts of a new campaign; None takes a fresh one.

    Raises:
        InputError: The folder cannot be used, holds something else, or a campaign of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], seed: int | None) -> None:
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))
        self.seed = secrets.randbits(31) if seed is None else seed
        self.engines: dict[str, EngineProgress] = {}
        self.is_resumed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = {path.name for path in folder.iterdir()} - {_LOCK_FILE, f"{STATE_FILE}.tmp"}
            if names and STATE_FILE not in names:
                raise InputError(
                    f"{folder} is not empty, and holds no campaign", "pass another folder with -o"
                )
            self._lock = (folder / _LOCK_FILE).open("ab")
        except OSError as error:
            raise InputError(
                f"{folder} cannot be used ({error.strerror})", "pass another folder with -o"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if STATE_FILE in names:
                self._read()
            self.save()
        except BlockingIOError as error:
            self._lock.close()
            raise InputError(
                f"another farspan is at work in {folder}", "wait for it, or pass another -o"
            ) from error
        except (InputError, OSError):
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def progress(self, name: str) -> EngineProgress:
        """Return how far an engine is; one that is new has done nothing."""
        return self.engines.setdefault(name, EngineProgress(name))

    def done(self, progress: EngineProgress, step: Step) -> None:
        """Note that a step is done; it is on disk when this returns."""
        if step not in progress.steps:
            progress.steps.append(step.value)
        self.save()

    def save(self) -> None:
        """Write the state so that a crash leaves the old one or the new one.

        Raises:
            OSError: It cannot be written; the file is named.
        """
        document = {
            "format": FORMAT,
            "settings": self.settings,
            "seed": self.seed,
            "engines": [asdict(engine) for engine in self.engines.values()],
        }
        path = self.folder / STATE_FILE
        draft = path.with_name(f"{STATE_FILE}.tmp")
        try:
            with draft.open("w", encoding="utf-8") as file:
                json.dump(document, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error

    def _read(self) -> None:
        path = self.folder / STATE_FILE
        known = {one.name for one in fields(EngineProgress)}
        try:
            document = json.loads(path.read_bytes())
            if document["format"] != FORMAT:
                raise InputError(
                    f"{path} has format {document['format']}, not {FORMAT}", "pass another folder with -o"
                )
            had, self.seed = document["settings"], document["seed"]
            self.engines = {
                one["name"]: EngineProgress(**{key: one[key] for key in one if key in known})
                for one in document["engines"]
            }
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error})", "pass another folder with -o") from error
        differing = [
            f"{name} {had.get(name)!r}, not {self.settings[name]!r}"
            for name in self.settings
            if had.get(name) != self.settings[name]
        ]
        if differing:
            raise InputError(
                f"the campaign in {self.folder} has {'; '.join(differing)}",
                "give the same, or another folder with -o",
            )
        self.is_resumed = True
