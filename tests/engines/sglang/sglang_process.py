"""A process that runs one SGLang version's own memory arithmetic (oracle.py) and answers cases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


class Oracle:
    """One SGLang version answering cases in a process of its own."""

    def __init__(self, version: str) -> None:
        parent = Path(os.environ.get("FARSPAN_SGLANG_SOURCE", ROOT))
        found = [
            folder
            for folder in (parent / f".sglang-{version}", parent / f"sglang-{version}")
            if (folder / "sglang" / "srt").is_dir()
        ]
        if not found:
            raise SystemExit(
                f"sglang {version} is not unpacked under {parent}: run "
                f"`pip install --no-deps --target .sglang-{version} sglang=={version}`"
            )
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore",
                str(Path(__file__).parent / "oracle.py"),
                version,
                str(found[0]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, case: dict[str, Any]) -> Any:
        """The version's own answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the oracle stopped with code {self.process.wait()}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
