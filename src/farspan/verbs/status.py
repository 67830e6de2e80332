"""The servers that farspan has started, and how they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from farspan.diagnosis.examine import examine
from farspan.diagnosis.start_so_far import describe_start
from farspan.launch.server_records import StateFolder
from farspan.launch.started_servers import ServerStatus, find_status

_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ServerStatuses:
    """How servers are, in the order of their records.

    Args:
        servers: One entry a server.
    """

    servers: tuple[ServerStatus, ...]

    @property
    def all_ready(self) -> bool:
        """Whether every server answers; True where there is none."""
        return all(server.state == "ready" for server in self.servers)

    def to_json(self) -> list[dict[str, Any]]:
        """The records, each with its state and why."""
        return [
            {**asdict(server.record), "state": server.state, "why": server.why} for server in self.servers
        ]


def status(name: str | None = None, *, state: StateFolder | None = None) -> ServerStatuses:
    """Look up the servers that farspan has started.

    Args:
        name: One server; all of them when None.
        state: Where the records are; the user's own folder when None.

    Raises:
        InputError: There is no server of that name.
    """
    state = state or StateFolder()
    records = [state.find(name)] if name else state.records()
    return ServerStatuses(tuple(_with_start(find_status(record)) for record in records))


def _with_start(server: ServerStatus) -> ServerStatus:
    """A server that is starting, with what its log shows it doing, as far as this machine has it."""
    log = Path(server.record.log)
    if server.state != "starting" or not server.record.log or not log.is_file():
        return server
    with log.open("rb") as file:
        report = examine(iter(lambda: file.read(_PIECE_BYTES), b""))
    doing = describe_start(report.server_state, report.timeline)
    return replace(server, why=doing) if doing else server
