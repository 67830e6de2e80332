"""One interface for the ways to run a server: describe it, look for an older one, start it, end it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from farspan.errors import InputError
from farspan.launch.launch_spec import Launch
from farspan.launch.readiness import Watched
from farspan.launch.server_records import StateFolder


class IfExists(StrEnum):
    """What to do when a server of that name is there already."""

    REFUSE = "refuse"
    REPLACE = "replace"
    REUSE = "reuse"


class Running(Watched, Protocol):
    """A server that was started, or found running."""

    @property
    def url(self) -> str:
        """Where it answers; empty as long as it cannot be reached."""

    def let_go(self) -> None:
        """Stop watching; the server stays."""

    def end(self) -> None:
        """End the server, with everything it started."""


class Runtime(Protocol):
    """One way to run a server."""

    launch: Launch

    def describe(self) -> dict[str, object]:
        """What would run, as JSON values without secrets."""

    def text(self) -> str:
        """What would run, ready to paste."""

    def find(self, state: StateFolder) -> str | None:
        """The fingerprint of a server of that name that is there already; None when there is none."""

    def fingerprint(self) -> str:
        """The fingerprint of what would run."""

    def start(self, log: Path, secrets: Mapping[str, str]) -> Running:
        """Start it."""

    def attach(self, log: Path, state: StateFolder) -> Running:
        """Watch the one that is there already."""

    def remove(self, state: StateFolder) -> None:
        """End the one that is there already."""

    def record_fields(self, running: Running) -> dict[str, object]:
        """What a record keeps of it: fields of ServerRecord."""


def handle_existing(runtime: Runtime, state: StateFolder, policy: IfExists) -> bool:
    """Refuse, remove or keep a server of that name that is there already.

    Returns:
        Whether it is to be used as it is.

    Raises:
        InputError: There is one, and it is not to be touched, or is not the one wanted.
    """
    name = runtime.launch.name
    found = runtime.find(state)
    if found is None:
        return False
    if policy is IfExists.REPLACE:
        runtime.remove(state)
        return False
    if policy is IfExists.REUSE:
        if found != runtime.fingerprint():
            raise InputError(
                f"the server {name} that is there was started differently",
                "use --if-exists replace, or another --name",
            )
        return True
    raise InputError(
        f"a server {name} is there already",
        "use --if-exists reuse or replace, another --name, or farspan stop first",
    )
