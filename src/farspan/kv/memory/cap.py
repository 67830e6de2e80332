"""How much memory a pool may hold beside its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from farspan.errors import InputError

if TYPE_CHECKING:
    from farspan.kv.memory.drivers.driver import Memory


@dataclass(frozen=True, slots=True)
class Cap:
    """The most a pool may hold.

    Attributes:
        fixed_bytes: A fixed number of bytes; None when there is none.
        share: Of the memory that is free or already the pool's, the part it may hold: it follows what neighbours take.
        headroom_bytes: Free memory of the device that is left alone in any case.
    """

    fixed_bytes: int | None = None
    share: float = 1.0
    headroom_bytes: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"a share of {self.share} of the free memory is not above 0 and at most 1")
        if self.headroom_bytes < 0 or (self.fixed_bytes is not None and self.fixed_bytes < 0):
            raise InputError("a cap is not negative")

    def limit(self, memory: Memory, held: int) -> int:
        """Return the most bytes the pool may hold, given that it holds `held` of them now."""
        shared = int(self.share * (memory.free + held))
        within = min(shared, held + memory.free - self.headroom_bytes)
        return max(0, within if self.fixed_bytes is None else min(within, self.fixed_bytes))
