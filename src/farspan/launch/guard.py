"""Runs a command and sees to it that nothing of it outlives whoever asked.

    python -I -S guard.py PIPE GRACE -- COMMAND...

The guard holds the reading end of a pipe whose writing end only its parent has. When the parent closes the
pipe, or dies however it may, the guard ends the command: SIGTERM to its process group, and after GRACE
seconds SIGKILL to the group and to whatever descendants have left the group. A death signal set on the
child alone would not do: it is tied to the thread that started the child and does not reach the child's
own children.

A parent that wants the command to outlive it writes one byte, `d`: from then on the pipe does not matter, and
SIGTERM to the guard ends the command.

It is a process of its own, in a session of its own, so that neither Ctrl-C in the terminal nor SIGKILL to
the parent keeps it from its work. It imports the standard library only and is up in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LET_GO = b"d"


def main(arguments: list[str]) -> int:
    """Run the command until it ends or the pipe closes; return its exit status as a shell would."""
    pipe, grace_s, command = int(arguments[0]), float(arguments[1]), arguments[3:]
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphaned descendants become our children, where we can find them
    guard = os.getpid()

    def prepare() -> None:
        _prepare_child(guard)

    try:
        child = subprocess.Popen(command, process_group=0, close_fds=True, preexec_fn=prepare)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return 127
    if not _ends_before_pipe_closes(child, pipe):
        _signal_group(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    _kill_all(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _prepare_child(guard: int) -> None:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # should the guard itself be killed
    if os.getppid() != guard:  # it was, before the line above
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    """Call prctl(2) where there is one (Linux)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _ends_before_pipe_closes(child: subprocess.Popen[bytes], pipe: int) -> bool:
    """Wait for whichever comes first; True when it was the child's end. SIGTERM counts as the pipe's end once the
    parent has let go."""
    ends: list[int] = []
    with contextlib.suppress(AttributeError, OSError):
        ends.append(os.pidfd_open(child.pid))
    pause = None if ends else 0.1  # where there are no pidfds, look ten times a second
    while child.poll() is None:
        readable, _, _ = select.select([pipe, *ends], [], [], pause)
        if pipe in readable:
            word = os.read(pipe, 1)
            if not word:
                return False
            if word == _LET_GO:
                pipe = _end_on_sigterm()
    return True


def _end_on_sigterm() -> int:
    """Return the reading end of a pipe that SIGTERM closes."""
    reading, writing = os.pipe()

    def close(number: int, frame: object) -> None:  # noqa: ARG001
        with contextlib.suppress(OSError):
            os.close(writing)

    signal.signal(signal.SIGTERM, close)
    return reading


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _kill_all(child: subprocess.Popen[bytes]) -> None:
    """Kill the group, then every descendant that has become our child, until none is left."""
    _signal_group(child.pid, signal.SIGKILL)
    child.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def _children() -> list[int]:
    """List our children; empty where /proc does not tell."""
    pid = os.getpid()
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
