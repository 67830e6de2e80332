"""A server as a process group of this machine."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from farspan.errors import LaunchError
from farspan.launch.launch_spec import Launch, digest
from farspan.launch.local import LocalServer, import_path, read_tail
from farspan.launch.runtime import Running
from farspan.launch.server_records import ServerRecord, StateFolder, process_start

_GRACE_S = 20.0


class LocalRuntime:
    """A process group of this machine."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    def describe(self) -> dict[str, object]:
        """Return what would run."""
        command = self.launch.command
        return {
            "argv": list(command.argv),
            "env": dict(command.env),
            "secret_env": sorted(self.launch.secrets),
        }

    def text(self) -> str:
        """Return what would run, ready to paste."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.launch.command.env.items()]
        return " ".join([*words, shlex.join(self.launch.command.argv)])

    def fingerprint(self) -> str:
        """Return the fingerprint of what would run."""
        return digest([list(self.launch.command.argv), dict(self.launch.command.env)])

    def find(self, state: StateFolder) -> str | None:
        """Return the fingerprint of what is there; None when there is nothing."""
        record = state.load(self.launch.name)
        return record.digest if record is not None and is_alive(record) else None

    def start(self, log: Path, secrets: Mapping[str, str]) -> LocalRun:
        """Start it."""
        own = {} if self.launch.engine.distributions else import_path()
        environment = {**own, **self.launch.command.env, **secrets}
        server = LocalServer(
            self.launch.command.argv,
            log=log,
            environment=environment,
            grace_s=_GRACE_S,
            withheld=self.launch.secrets.values(),  # the engine has them under its own names
        )
        return LocalRun(server, self.launch.url)

    def attach(self, log: Path, state: StateFolder) -> FoundProcess:
        """Watch what is there."""
        record = state.find(self.launch.name)
        return FoundProcess(record, log)

    def remove(self, state: StateFolder) -> None:
        """End what is there."""
        end_process(state.find(self.launch.name))
        state.remove(self.launch.name)

    def record_fields(self, running: Running) -> dict[str, object]:
        """Return what a record keeps."""
        assert isinstance(running, (LocalRun, FoundProcess))
        return {"pid": running.pid, "pid_started": process_start(running.pid)}


class LocalRun:
    """A process this program started; see `LocalServer`."""

    def __init__(self, server: LocalServer, url: str) -> None:
        self._server = server
        self.url = url
        self.log = server.log
        self.started = server.started
        self.pid = server.guard_pid

    @property
    def exit_status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._server.exit_status

    def tail(self, lines: int = 15) -> tuple[str, ...]:
        """The last lines of the log that are not empty."""
        return self._server.tail(lines)

    def let_go(self) -> None:
        """Stop watching; the server stays."""
        self._server.detach()

    def end(self) -> None:
        """End it, with everything it started."""
        self._server.stop()


class FoundProcess:
    """A process an earlier farspan started and let go."""

    def __init__(self, record: ServerRecord, log: Path) -> None:
        self._record = record
        self.url = record.url
        self.log = log
        self.started = time.monotonic()
        self.pid = record.pid

    @property
    def exit_status(self) -> int | None:
        """The exit status; None while it runs."""
        return None if is_alive(self._record) else 1

    def tail(self, lines: int = 15) -> tuple[str, ...]:
        """The last lines of the log that are not empty."""
        return read_tail(self.log, lines)

    def let_go(self) -> None:
        """Stop watching; the server stays."""
        return

    def end(self) -> None:
        """End it, with everything it started."""
        end_process(self._record)


def is_alive(record: ServerRecord) -> bool:
    """Whether a local server's process is still the one that was started."""
    return bool(record.pid) and process_start(record.pid) == record.pid_started != 0


def end_process(record: ServerRecord) -> None:
    """End a local server that was let go, and wait until it is gone. One that is gone is fine.

    Raises:
        LaunchError: It does not go.
    """
    if not is_alive(record):
        return
    with contextlib.suppress(ProcessLookupError):  # it went by itself just now
        os.kill(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S + 15
    while is_alive(record):
        if time.monotonic() > deadline:
            raise LaunchError(f"process {record.pid} does not end", f"run kill -9 {record.pid}")
        time.sleep(0.05)
