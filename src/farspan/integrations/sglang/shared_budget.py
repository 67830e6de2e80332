"""A server's place in a budget that several servers of one GPU share, and what it can let go of for them."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

from farspan.errors import UnsupportedError
from farspan.integrations.sglang.adapters import option
from farspan.kv.memory.budget.member import BudgetMember, join_budget
from farspan.kv.memory.budget.settings import NAME_VARIABLE, budget_settings
from farspan.kv.memory.drivers.choose import device_id
from farspan.kv.memory.drivers.driver import Driver


def server_budget(arguments: Any, driver: Driver, *, ranks_agree: bool = False) -> BudgetMember | None:
    """Join the budget that FARSPAN_BUDGET names, if it names one; each process joins that of its own device.

    Args:
        arguments: SGLang's, which name the server.
        driver: Of the device.
        ranks_agree: Tensor-parallel ranks admit only what each of them may hold, see `rank_agreement`.

    Raises:
        BudgetError: The budget's file cannot be used.
        InputError: A variable cannot be read, or the floor does not fit beside the others'.
        UnsupportedError: Several processes would have to admit the same requests by what each may hold.
    """
    settings = budget_settings()
    if settings is None:
        return None
    for name in ("pp_size",) if ranks_agree else ("tp_size", "pp_size"):
        if (value := option(arguments, name)) not in (None, 1):
            raise UnsupportedError(
                f"{NAME_VARIABLE}={settings.name} does not work with --{name.replace('_', '-')} {value}: its processes "
                "would have to admit the same requests by what each may hold",
                f"unset {NAME_VARIABLE}, or start one process",
            )
    name = option(arguments, "served_model_name") or option(arguments, "model_path")
    return join_budget(settings, str(name), device_id(driver), driver.memory().total)


class CachedPrefixes:
    """An `Evictor` of SGLang's prefix cache.

    Args:
        segment_bytes: Of every segment.
        token_bytes: Of a token in the pool of full attention, and in that of the window; 0 without one.
        cached: Returns the tokens of each that nobody uses.
        evict: Evicts so many tokens of each, and waits until their memory can go.
    """

    def __init__(
        self,
        segment_bytes: int,
        token_bytes: tuple[float, float],
        cached: Callable[[], tuple[int, int]],
        evict: Callable[[int, int], None],
    ) -> None:
        self._segment_bytes = segment_bytes
        self._token_bytes = token_bytes
        self._cached = cached
        self._evict = evict

    def evictable(self) -> int:
        """See `Evictor.evictable`."""
        pairs = zip(self._cached(), self._token_bytes, strict=True)
        return int(sum(tokens * size for tokens, size in pairs) // self._segment_bytes)

    def evict(self, count: int) -> bool:
        """See `Evictor.evict`; both pools let go of the same share of what is cached."""
        full, window = self._cached()
        held = full * self._token_bytes[0] + window * self._token_bytes[1]
        if not held:
            return False
        share = min(1.0, count * self._segment_bytes / held)
        self._evict(ceil(full * share), ceil(window * share))
        return True
