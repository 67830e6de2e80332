"""Runs a command when this program dies, kill -9 included, unless it was dismissed before.

    python -I -S on_parent_death.py PAUSE COMMAND...

What a daemon owns, as docker owns its containers, does not end with the program that asked for it. The waiting process
has a session of its own and reads from a pipe only this program can write to: one byte dismisses it, and the pipe's end
without one makes it run the command. It imports the standard library only.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

_PAUSE_S = 1.0  # for what the dead program had under way to end first
_LIMIT_S = 120.0


class OnParentDeath:
    """A command that runs if this program dies, until it is dismissed.

    Args:
        command: The program and its arguments.
        environment: Its environment; None for this program's own.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._waiting = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(_PAUSE_S), *command],
            env=None if environment is None else dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """End the wait without running the command. May be called again."""
        if self._waiting.returncode is None:
            with contextlib.suppress(BrokenPipeError):
                self._waiting.communicate(b"d")


def main(arguments: list[str]) -> int:
    """Wait for one byte, and run the command when the pipe ends without it."""
    pause_s, command = float(arguments[0]), arguments[1:]
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    if sys.stdin.buffer.read(1):
        return 0
    time.sleep(pause_s)
    return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=_LIMIT_S, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
