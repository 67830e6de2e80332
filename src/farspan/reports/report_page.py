"""What reports of runs and reports of plans have in common: all of a page, ready to be written in any format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from farspan.reports.drawing import Chart


class ReportPage(ABC):
    """All that a report shows.

    Attributes:
        template: The name of its Jinja templates, without a suffix.
        title: Its heading.
        good: Whether all is well: every answer right, or what was planned fits.
    """

    __slots__ = ()
    template: ClassVar[str]
    title: str
    good: bool

    @abstractmethod
    def draw_charts(self) -> list[Chart]:
        """Draw every chart there is data for.

        Raises:
            MissingPackageError: The package that draws is not installed.
        """

    @abstractmethod
    def csv_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """Return the columns and rows of the CSV; None is an unknown value."""

    @abstractmethod
    def json_parts(self) -> dict[str, list[dict[str, Any]]]:
        """Return what the page says, as lists of JSON objects by name."""
