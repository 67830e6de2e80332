"""A server as a process of this machine, which never outlives the program that started it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from farspan.errors import LaunchError
from farspan.launch.helper_environment import helper_environment

_TAIL_BYTES = 64 * 2**10
_AFTER_GRACE_S = 15.0
# By path and isolated, so that neither this program's nor the server's Python settings reach the other.
_GUARD = (sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")))


def find_free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Refuse a port somebody listens on: a server started there would fail, and the old one be taken for it.

    Raises:
        LaunchError: It is taken, or the address is not this machine's.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # a name that cannot be one is a UnicodeError
        reason = getattr(error, "strerror", None) or "it is no host name"
        raise LaunchError(
            f"cannot listen on {host}:{port} ({reason})", "choose another --port; 0 takes a free one"
        ) from error


def import_path() -> dict[str, str]:
    """The environment with which another Python imports the farspan that is running, installed or not."""
    package_root = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{package_root}{os.pathsep}{known}" if known else package_root}


class LocalServer:
    """A command running under the guard (`farspan.launch.guard`), its output in a log file.

    Leaving the context, closing the program and killing it with SIGKILL all end the command and everything it
    started.

    Args:
        command: The program and its arguments.
        log: Where its standard output and error go; appended to.
        environment: Variables added to this program's own.
        withheld: Names of this program's variables that it does not get.
        grace_s: How long it has between SIGTERM and SIGKILL.

    Raises:
        LaunchError: The log cannot be written.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        withheld: Collection[str] = (),
        grace_s: float = 5.0,
    ) -> None:
        self.command = tuple(command)
        self.log = log
        self.started = time.monotonic()
        self._grace_s = grace_s
        reading, self._pipe = os.pipe()
        try:
            with log.open("ab") as output:
                self._guard = subprocess.Popen(
                    [*_GUARD, str(reading), str(grace_s), "--", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(reading,),
                    start_new_session=True,
                    env=helper_environment(environment, withheld),
                )
        except OSError as error:
            os.close(self._pipe)
            fix = (
                "shorten the words after --, or the environment"
                if error.errno == errno.E2BIG
                else "check the folder its log goes to"
            )
            raise LaunchError(f"cannot start the server ({error.strerror})", fix) from error
        finally:
            os.close(reading)
        self._closed = False
        self._detached = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def exit_status(self) -> int | None:
        """The command's exit status as a shell would give it; None while it runs."""
        return self._guard.poll()

    @property
    def guard_pid(self) -> int:
        """The guard's process id."""
        return self._guard.pid

    def wait(self, limit_s: float) -> None:
        """Wait until the command ends by itself, or for so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(limit_s)

    def detach(self) -> None:
        """Let the command outlive this program; from now on SIGTERM to the guard ends it.

        Raises:
            LaunchError: It has ended already.
        """
        try:
            os.write(self._pipe, b"d")
        except OSError as error:
            raise LaunchError("the server has ended", f"read its log, {self.log}", self.tail()) from error
        self._detached = self._closed = True
        os.close(self._pipe)

    def stop(self) -> None:
        """End the command and wait until nothing of it is left. May be called again. One that was let go stays."""
        if self._detached:
            return
        if not self._closed:
            self._closed = True
            os.close(self._pipe)
        self._guard.wait(self._grace_s + _AFTER_GRACE_S)

    def tail(self, lines: int = 15) -> tuple[str, ...]:
        """Return the last lines of the log that are not empty."""
        return read_tail(self.log, lines)


def read_tail(log: Path, lines: int) -> tuple[str, ...]:
    """Return the last lines of a log that are not empty; none when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(line for line in text.splitlines() if line.strip())[-lines:]
