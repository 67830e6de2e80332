"""The log of a server that farspan has started, from wherever it is."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan.errors import LaunchError, MissingPackageError, NotFoundError
from farspan.launch.local import read_tail
from farspan.launch.runtimes.process import is_alive
from farspan.launch.server_records import ServerRecord, StateFolder, check_name
from farspan.launch.started_servers import log_argv

_POLL_S = 0.2
_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ServerLog:
    """Where a server's log is.

    Args:
        record: The server.
        argv: The command that prints the log; empty where it is a file of this machine.
        follow: Whether reading goes on as the log grows.
        lines: Only so many of the last lines; None for all.
    """

    record: ServerRecord
    argv: tuple[str, ...]
    follow: bool = False
    lines: int | None = None

    @property
    def path(self) -> Path:
        """The log file on this machine; for a container or a pod a copy of what was seen so far."""
        return Path(self.record.log)

    def to_json(self) -> dict[str, Any]:
        """The server's name, the file and the command."""
        return {"name": self.record.name, "log": self.record.log, "argv": list(self.argv)}

    def pieces(self) -> Iterator[bytes]:
        """Read the log; with `follow` until the server ends.

        Raises:
            NotFoundError: The file is not there.
            MissingPackageError: docker or kubectl is not installed.
            LaunchError: docker or kubectl failed.
        """
        if self.argv:
            yield from self._from_command()
            return
        if not self.path.exists():
            raise NotFoundError(
                f"{self.path} is not there", "the server has written nothing, or the file was removed"
            )
        with self.path.open("rb") as file:
            if self.lines:
                yield "".join(f"{line}\n" for line in read_tail(self.path, self.lines)).encode()
                file.seek(0, 2)
            while True:
                # Whether it lives is asked before the read: what it wrote last is then not missed.
                goes_on = self.follow and is_alive(self.record)
                data = file.read(_PIECE_BYTES)
                if data:
                    yield data
                elif goes_on:
                    time.sleep(_POLL_S)
                else:
                    return

    def _from_command(self) -> Iterator[bytes]:
        try:
            process = subprocess.Popen(self.argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except FileNotFoundError:
            raise MissingPackageError(
                f"{self.argv[0]} is not on PATH", f"its copy so far is {self.record.log}"
            ) from None
        with process:
            assert process.stdout is not None
            try:
                while data := os.read(process.stdout.fileno(), _PIECE_BYTES):
                    yield data
            except GeneratorExit:
                process.terminate()
                raise
        if process.returncode:
            raise LaunchError(
                f"{self.argv[0]} ended with status {process.returncode}",
                f"the copy of the log so far is {self.record.log}",
            )


def logs(
    name: str | None = None,
    *,
    follow: bool = False,
    lines: int | None = None,
    state: StateFolder | None = None,
) -> ServerLog:
    """Find the log of a server that farspan has started.

    Args:
        name: The server; the only one there is when None.
        follow: Go on reading as the log grows, until the server ends.
        lines: Only so many of the last lines.
        state: Where the records are; the user's own folder when None.

    Raises:
        InputError: There is no such server, or several and no name.
    """
    state = state or StateFolder()
    record = state.load(name) if name else None
    if record is None and name and (left := state.folder / f"{check_name(name)}.log").is_file():
        # A server that failed, or was stopped, is forgotten; its log stays.
        gone = ServerRecord(name, "local", "", "", "", "", 0, left.stat().st_mtime, str(left))
        return ServerLog(gone, (), False, lines)
    record = state.find(name)
    return ServerLog(record, log_argv(record, follow=follow, lines=lines), follow, lines)
