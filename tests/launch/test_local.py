from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from farspan.launch.local import LocalServer, find_free_port
from processes import runs

# A server with a child in its own group and one in a session of its own, both deaf to SIGTERM; it writes
# all pids.
FAMILY = """
import os, signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
near = subprocess.Popen([sys.executable, "-c", deaf])
far = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(0.2)
with open(sys.argv[1] + ".tmp", "w") as file:
    file.write(f"{os.getpid()} {near.pid} {far.pid}")
os.rename(sys.argv[1] + ".tmp", sys.argv[1])
time.sleep(600)
"""


def family(pids: Path, manner: str = "polite") -> list[str]:
    return [sys.executable, "-c", FAMILY, str(pids), manner]


def wait_for_pids(path: Path) -> list[int]:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, "the processes did not start"
        time.sleep(0.02)
    return [int(word) for word in path.read_text().split()]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if runs(pid)]


def wait_until_dead(pids: list[int], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while alive(pids):
        assert time.monotonic() < deadline, f"still alive: {alive(pids)}"
        time.sleep(0.02)


@pytest.mark.parametrize("manner", ["polite", "deaf"])
def test_leaving_ends_the_whole_family(tmp_path: Path, manner: str) -> None:
    with LocalServer(family(tmp_path / "pids", manner), log=tmp_path / "log", grace_s=0.5) as server:
        pids = wait_for_pids(tmp_path / "pids")
        assert server.exit_status is None
        assert len(alive(pids)) == 3
    assert alive(pids) == []
    assert server.exit_status is not None
    server.stop()


def test_a_server_that_dies_takes_its_children_along(tmp_path: Path) -> None:
    with LocalServer(family(tmp_path / "pids"), log=tmp_path / "log") as server:
        pids = wait_for_pids(tmp_path / "pids")
        os.kill(pids[0], signal.SIGKILL)
        wait_until_dead(pids)
        deadline = time.monotonic() + 60
        while server.exit_status is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert server.exit_status == 128 + signal.SIGKILL


PROGRAM = """
import sys, time
from pathlib import Path
from farspan.launch.local import LocalServer
with LocalServer(sys.argv[2:], log=Path(sys.argv[1]), grace_s=1):
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_outlives_the_program(tmp_path: Path, number: signal.Signals) -> None:
    source = Path(__file__).resolve().parents[2] / "src"
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "log"), *family(tmp_path / "pids", "deaf")],
        env={**os.environ, "PYTHONPATH": str(source)},
        stderr=subprocess.DEVNULL,
    )
    try:
        pids = wait_for_pids(tmp_path / "pids")
        guards = [child.pid for child in psutil.Process(program.pid).children()]
        assert len(guards) == 1
        program.send_signal(number)
        program.wait(60)
        wait_until_dead([*pids, *guards])
    finally:
        program.kill()
        program.wait()


def test_killing_the_guard_ends_the_server(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    with LocalServer(sleeper, log=tmp_path / "log"):
        guard = psutil.Process().children()[0]
        deadline = time.monotonic() + 60
        while not guard.children():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pids = [child.pid for child in guard.children()]
        guard.kill()
        wait_until_dead(pids)


def test_output_goes_to_the_log_and_the_status_is_kept(tmp_path: Path) -> None:
    talk = textwrap.dedent(
        """
        import sys
        print("one")
        print("", "two €", file=sys.stderr)
        print()
        sys.exit(3)
        """
    )
    with LocalServer([sys.executable, "-u", "-c", talk], log=tmp_path / "log") as server:
        deadline = time.monotonic() + 60
        while server.exit_status is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert server.exit_status == 3
        assert server.tail() == ("one", " two €")
        assert server.tail(1) == (" two €",)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with LocalServer(["/no/such/program"], log=tmp_path / "log") as server:
        deadline = time.monotonic() + 60
        while server.exit_status is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert server.exit_status == 127
        assert "cannot start /no/such/program" in server.tail()[-1]


def test_a_free_port_can_be_used() -> None:
    assert 1024 <= find_free_port() < 65536
