"""What the built-in engine says of itself: a line a phase of its start, with the time, then of its memory."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import click

from farspan.sizes import GIB


class StartLog:
    """Writes the lines of one start.

    The phases go to standard error. The line that says where the server is goes to standard output, whose first it is:
    scripts wait for it.
    """

    def __init__(self) -> None:
        self._since = time.monotonic()

    def libraries_loaded(self, torch_version: str) -> None:
        """Torch is there, and nothing was wrong with the options; weights come next."""
        self._write(f"torch {torch_version} loaded in {self._lap():.2f} s")

    def weights_loaded(self, size: int) -> None:
        """So many bytes of weights are on the device."""
        self._write(f"weights of {size / GIB:.3f} GiB loaded in {self._lap():.2f} s")

    def ready(self, text: str) -> None:
        """The server listens; what clients send is answered in a moment."""
        self._write(text, to_error=False)

    def memory(self, text: str) -> None:
        """What has become of the KV cache's memory; see `farspan.kv.memory.memory_log`."""
        click.echo(f"{_stamp()} {text}", err=True)

    def stopped(self) -> None:
        """The server has ended in good order."""
        self._write("stopped")

    def _lap(self) -> float:
        now = time.monotonic()
        took, self._since = now - self._since, now
        return took

    def _write(self, text: str, to_error: bool = True) -> None:
        click.echo(f"{_stamp()} farspan built-in engine: {text}", err=to_error)


def _stamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
