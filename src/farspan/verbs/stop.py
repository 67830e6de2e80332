"""End servers that farspan has started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from farspan.errors import InputError
from farspan.launch.server_records import StateFolder
from farspan.launch.started_servers import stop_server


@dataclass(frozen=True, slots=True)
class Stopped:
    """What was ended.

    Args:
        names: The servers, in the order in which they ended.
    """

    names: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The names under "stopped"."""
        return {"stopped": list(self.names)}


def stop(
    name: str | None = None,
    *,
    every: bool = False,
    state: StateFolder | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Stopped:
    """End a server and everything it started; a server that is gone already is forgotten. Logs stay.

    Args:
        name: The server; the only one there is when None.
        every: End all of them.
        state: Where the records are; the user's own folder when None.
        on_step: Called with a line as each server is ended.

    Raises:
        InputError: There is no such server, or several and no name.
        LaunchError: One does not end.
    """
    if name and every:
        raise InputError(f"both {name} and --all are given", "give one")
    state = state or StateFolder()
    records = state.records() if every else [state.find(name)]
    for record in records:
        stop_server(record, state, on_step=on_step)
    return Stopped(tuple(record.name for record in records))
