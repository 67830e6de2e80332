"""Waiting until a server really answers, and noticing at once when it never will."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from farspan.errors import LaunchError

# Says why the server is not ready yet; empty when it is.
Check = Callable[[], Awaitable[str]]


class Watched(Protocol):
    """A server being started, on whatever it runs. Its log, or a copy of it, is a file of this machine."""

    @property
    def log(self) -> Path:
        """The log file."""

    @property
    def started(self) -> float:
        """When it was started, by the monotonic clock."""

    @property
    def exit_status(self) -> int | None:
        """Its exit status; None while it runs."""

    def tail(self, lines: int = 15) -> tuple[str, ...]:
        """The last lines of its log."""


async def wait_ready(
    server: Watched,
    check: Check,
    *,
    limit_s: float,
    on_wait: Callable[[float, str], None] | None = None,
    pause_s: float = 0.2,
) -> float:
    """Wait until `check` finds nothing missing and return how long the server took from its start, in
    seconds.

    Args:
        server: The process; when it dies the wait is over.
        check: Asks the server whether it answers.
        limit_s: Longest wait, in seconds from now.
        on_wait: Called after every check that failed, with the seconds since the server's start and what
            it prints.
        pause_s: Seconds between two checks.

    Raises:
        LaunchError: The server died, or was not ready in time. The error has the last lines of its log.
    """
    deadline = time.monotonic() + limit_s
    while True:
        missing = await _check_while_alive(server, check)
        waited = time.monotonic() - server.started
        if server.exit_status is not None:
            raise LaunchError(
                f"the server ended with status {server.exit_status} after {waited:.1f} s",
                f"read its log, {server.log}",
                server.tail(),
            )
        if not missing:
            return waited
        if time.monotonic() > deadline:
            raise LaunchError(
                f"the server was not ready after {waited:.0f} s ({missing})",
                f"read its log, {server.log}",
                server.tail(),
            )
        if on_wait is not None:
            lines = server.tail(1)
            on_wait(waited, lines[0] if lines else missing)
        await asyncio.sleep(pause_s)


async def _check_while_alive(server: Watched, check: Check) -> str:
    """Run one check, but no longer than the server lives: a dead one may keep a client waiting."""
    task = asyncio.ensure_future(check())
    try:
        while not task.done():
            if server.exit_status is not None:
                return "it has ended"
            await asyncio.wait({task}, timeout=0.2)
        return task.result()
    finally:
        task.cancel()
