"""What a plan says besides its figures: what breaks or may break, and what explains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from farspan.planner.request import PlanRequest

ELASTIC_ALWAYS = "Its KV cache is always elastic: --elastic changes nothing."


class Remarks(NamedTuple):
    """Sentences about one planned server, the most costly mistake first.

    Args:
        warnings: What breaks or may break a server, a request or the plan itself, and what the plan had to add.
        notes: What explains a figure, a flag or a line of the log.
    """

    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def join(cls, several: Iterable[Remarks]) -> Remarks:
        """All of several remarks, in their order."""
        parts = tuple(several)
        return cls(
            tuple(chain.from_iterable(part.warnings for part in parts)),
            tuple(chain.from_iterable(part.notes for part in parts)),
        )

    def lines(self) -> Iterator[str]:
        """Every sentence as it is shown, behind `!` or `note:`."""
        yield from (f"! {warning}" for warning in self.warnings)
        yield from (f"note: {note}" for note in self.notes)


def flags_without_effect(request: PlanRequest, names: Iterable[str], needed: str) -> list[str]:
    """What to say of flags that do nothing unless another is given too."""
    idle = [name for name in names if name in request.engine_flags]
    return (
        [f"{' and '.join(idle)} {'does' if len(idle) == 1 else 'do'} nothing without {needed}."]
        if idle
        else []
    )
