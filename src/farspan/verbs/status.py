"""The servers that farspan has started, and how they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from farspan.launch.server_records import StateFolder
from farspan.launch.started_servers import ServerStatus, find_status


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
    return ServerStatuses(tuple(find_status(record) for record in records))
