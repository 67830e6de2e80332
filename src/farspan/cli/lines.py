"""Progress as plain lines: what the views of a bench and of a start have in common."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from farspan.escape_terminal import printable


class LineView:
    """Writes lines to a console; a context manager, so that a live view can take its place."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def step(self, line: str) -> None:
        """Write one line, as it is: names and errors from a server are never read as markup."""
        self._console.print(Text(printable(line)), soft_wrap=True)
