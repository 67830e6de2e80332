from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from farspan.launch import docker, kubernetes
from played import Fakes

SUPPORT = Path(__file__).resolve().parents[1] / "support"


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    """docker and kubectl on PATH, recording what they are called with."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for name in ("docker", "kubectl"):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\nexec {sys.executable} -S {SUPPORT / "fake_programs.py"} {name} "$@"\n'
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_FOLDER", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(docker, "_POLL_S", 0.1)
    monkeypatch.setattr(kubernetes, "_POLL_S", 0.1)
    yield Fakes(folder)
    pid = folder / "server.pid"
    if pid.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), 9)
