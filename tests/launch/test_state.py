from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from farspan.errors import InputError
from farspan.launch.prepare_launch import default_name
from farspan.launch.runtimes.process import end_process, is_alive
from farspan.launch.server_records import ServerRecord, StateFolder, check_name, process_start, state_folder

RECORD = ServerRecord("one", "local", "vllm", "0.12.0", "m", "http://127.0.0.1:8000", 1000, 1.0, "/log")


def test_records_come_back(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "servers")
    state.save(RECORD)
    state.save(replace(RECORD, name="two", started=0.5))
    assert [record.name for record in state.records()] == ["two", "one"]
    assert state.find("one") == RECORD
    assert (tmp_path / "servers").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "servers" / "one.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="several"):
        state.find(None)
    state.remove("two")
    assert state.find(None) == RECORD
    with pytest.raises(InputError, match="no server 'x'"):
        state.find("x")


def test_what_farspan_did_not_write_is_not_listed(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"name": "other", "colour": "red"}')
    assert state.records() == []
    with pytest.raises(InputError, match="started no server"):
        state.find(None)


def test_the_folder_follows_xdg() -> None:
    assert state_folder({"XDG_STATE_HOME": "/s"}) == Path("/s/farspan/servers")
    assert state_folder({"HOME": "/h"}) == Path("/h/.local/state/farspan/servers")


def test_another_process_under_the_same_number_is_not_the_server() -> None:
    mine = replace(RECORD, pid=os.getpid(), pid_started=process_start(os.getpid()))
    assert is_alive(mine)
    assert not is_alive(replace(mine, pid_started=mine.pid_started + 1))
    assert not is_alive(replace(mine, pid=2**22 + 1))
    assert not is_alive(RECORD)
    end_process(replace(mine, pid_started=1))  # must not end this process


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 60
    while process_start(child.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.wait()


def test_names() -> None:
    assert (
        default_name("meta-llama/Llama-4-Scout-17B-16E-Instruct", "vllm")
        == "llama-4-scout-17b-16e-instruct-vllm"
    )
    assert default_name("3b_Model.", "sglang") == "m-3b-model-sglang"
    assert len(check_name(default_name("x" * 90, "builtin"))) == 50
    for bad in ("", "Big", "a_b", "-a", "a-", "a" * 51, "../x"):
        with pytest.raises(InputError):
            check_name(bad)
