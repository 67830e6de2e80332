"""How an elastic KV cache behaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from farspan.errors import InputError
from farspan.kv.memory.budget.settings import BudgetSettings
from farspan.kv.memory.cap import Cap
from farspan.sizes import GIB, format_tokens

if TYPE_CHECKING:
    from farspan.kv.memory.budget.member import BudgetMember
    from farspan.kv.memory.drivers.driver import Driver

DEFAULT_SHARE = 0.5
_HEADROOM = 2**30  # left to what the engine computes with, where the cache may take all that is free


@dataclass(frozen=True, slots=True)
class KVOptions:
    """Options of the elastic KV cache.

    Attributes:
        capacity_gib: The most keys and values may take, GiB. None follows the device: `share` of what is free there
            and what the cache holds, read again before each growth.
        share: See `capacity_gib`; above 0, at most 1.
        initial_gib: Memory that is taken at the start and kept, used or not, GiB; the cache grows from there. With as
            much as `capacity_gib` the cache is of a fixed size.
        initial_tokens: The same, as much as one sequence of so many positions takes; the larger of the two counts.
        fp8: Keep keys and values as FP8 E4M3 with a scale a head and position, not in the model's dtype.
        page_tokens: Positions a page: what is allocated, shared and matched in one piece.
        segment_mib: Memory that one layer grows by, MiB, a power of two. None chooses by the capacity.
        prefix_caching: Whether later requests reuse the prefixes of earlier ones.
        quiet_s: Memory that has been empty for this long, in seconds, goes back to the device.
        keep_prefixes_s: Prefixes leave the device, to the host tier while it has room, once no request has been in
            progress for this long, in seconds. None keeps them until their memory is needed.
        host_gib: Host memory for prefixes evicted from the device, GiB; 0 keeps none.
        budget: The budget that the cache shares with other servers of its device; None for none. With one, and no
            `capacity_gib`, the cache may take all that the budget allows and that is free.
        member: What this server is called in the budget.
        debug: Poison pages that nobody holds and check all that is read, which is slow. The environment variable
            FARSPAN_KV_DEBUG=1 turns it on too.
    """

    capacity_gib: float | None = None
    share: float = DEFAULT_SHARE
    initial_gib: float = 0.0
    initial_tokens: int = 0
    fp8: bool = False
    page_tokens: int = 16
    segment_mib: int | None = None
    prefix_caching: bool = True
    quiet_s: float = 5.0
    keep_prefixes_s: float | None = None
    host_gib: float = 0.0
    budget: BudgetSettings | None = None
    member: str = "farspan"
    debug: bool = False

    def __post_init__(self) -> None:
        if self.capacity_gib is not None and self.capacity_gib <= 0:
            raise InputError(f"capacity_gib is {self.capacity_gib}", "it must be positive")
        if not 0 < self.share <= 1:
            raise InputError(f"share is {self.share}", "it must be above 0 and at most 1")
        if self.initial_gib < 0 or self.initial_tokens < 0:
            raise InputError("the initial size is negative", "give 0 or more")
        if self.capacity_gib is not None and self.initial_gib > self.capacity_gib:
            raise InputError(
                f"the initial size, {self.initial_gib:g} GiB, is above the most the cache may take, "
                f"{self.capacity_gib:g} GiB",
                "lower --kv-initial, or raise --kv-cache-gib",
            )
        if self.page_tokens < 1:
            raise InputError(f"page_tokens is {self.page_tokens}", "it must be at least 1")
        if self.segment_mib is not None and (
            self.segment_mib < 1 or self.segment_mib & (self.segment_mib - 1)
        ):
            raise InputError(f"segment_mib is {self.segment_mib}", "it must be a power of two")
        if self.quiet_s < 0 or (self.keep_prefixes_s is not None and self.keep_prefixes_s < 0):
            raise InputError("a time is negative", "give seconds, 0 or more")
        if self.host_gib < 0:
            raise InputError(f"host_gib is {self.host_gib}", "it must be 0 or more")

    @property
    def is_fixed(self) -> bool:
        """Whether the cache takes all it may at the start, and keeps it."""
        return self.initial_gib == self.capacity_gib

    @property
    def initial_text(self) -> str:
        """The initial size as `--kv-initial` has it; empty for none of its own."""
        if self.initial_tokens:
            return format_tokens(self.initial_tokens)
        return f"{self.initial_gib:g}GiB" if self.initial_gib and not self.is_fixed else ""

    @property
    def cap(self) -> Cap:
        """The most the cache may hold."""
        if self.capacity_gib is not None:
            return Cap(int(self.capacity_gib * GIB))
        return Cap(share=self.share) if self.budget is None else Cap(headroom_bytes=_HEADROOM)

    def join_budget(self, driver: Driver) -> BudgetMember | None:
        """Join the budget on the driver's device, if there is one.

        Raises:
            BudgetError: The budget's file cannot be used.
            InputError: The floor does not fit beside the others'.
        """
        if self.budget is None:
            return None
        # What keeps a budget is not needed to plan a server, and its imports take time.
        from farspan.kv.memory.budget.member import join_budget
        from farspan.kv.memory.drivers.choose import device_id

        return join_budget(self.budget, self.member, device_id(driver), driver.memory().total)
