"""What the ranks of a tensor-parallel server agree on, so that all of them admit, retract and evict the same requests.

Each rank runs SGLang's scheduler on the same requests, in iterations that begin when rank 0 has handed out what came
in. Their memory differs: one GPU has a neighbour, one driver refuses. So free slots, prefixes and rows are the same on
all ranks by construction: they change only by what a scheduler does in such an iteration, and where the device has to
be asked, every rank asks its own and all of them take the least answer. What only a rank's own memory knows, what is
mapped and empty and when it goes back, is not agreed on and decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch

from farspan.errors import UnsupportedError
from farspan.integrations.sglang.adapters import BACKEND, LEAVE_POOLS, option
from farspan.kv.memory.lenders import Evictor

# Seconds between two looks at what ranks must let go of for others, and the most iterations between them: of a busy
# server, whose iterations suddenly become long ones when a long prompt comes, and of an idle one.
_LOOK_S = 0.25
_MOST_BUSY, _MOST_IDLE = 8, 4096

# Option -> why ranks would not run the same requests in the same iterations.
_REFUSED = {
    "pp_size": "its stages run the same requests at different times",
    "enable_dp_attention": "its ranks have requests of their own and compute them together",
    "attn_cp_size": "it was not tried",
    "elastic_ep_backend": "ranks may leave",
    "enable_pdmux": "prefill and decode run at once",
}


class RankAgreement:
    """The ranks of one server that run the same requests. Belongs to the scheduler's thread.

    Every method must be called by all ranks, in the same order between the same two iterations.

    Args:
        exchange: Returns the least of all ranks' values, each for itself.
        sleeps: The server sleeps when it is idle, so that iterations are seldom then.
        clock: Seconds; may differ between ranks.
    """

    def __init__(
        self,
        exchange: Callable[[Sequence[int]], list[int]],
        sleeps: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exchange = exchange
        self._clock = clock
        self._most_idle = 1 if sleeps else _MOST_IDLE
        self._busy = False
        self._gap = self._left = 1
        self._looked = clock()
        self._looks = 0
        self._refused: tuple[object, ...] = ()

    def least(self, value: int) -> int:
        """Return the least of all ranks' values."""
        return self._exchange([value])[0]

    def time_to_look(self, busy: bool) -> bool:
        """Count an iteration of a server that is busy or idle; return whether all ranks are to `look` now."""
        if busy != self._busy:
            self._busy, self._gap, self._left = busy, 1, 1
        self._left -= 1
        return self._left <= 0

    def look(self, excess: int) -> int:
        """Return the most that any rank has too much, and choose the iteration of the next look."""
        now = self._clock()
        iterations = int(self._gap * _LOOK_S / max(now - self._looked, 1e-6))
        self._looked = now
        least, gap = self._exchange([-excess, iterations])
        most = _MOST_BUSY if self._busy else self._most_idle
        self._gap = self._left = max(1, min(gap, 2 * self._gap, most))
        self._looks += 1
        return -least

    def was_refused(self, *request: object) -> bool:
        """Return whether a request, beside the same others, was refused since the last look.

        A queue's first request is tried at every step of decoding; what its ranks have is not asked as often.
        """
        return self._refused == (self._looks, *request)

    def note_refused(self, *request: object) -> None:
        """Remember the same."""
        self._refused = (self._looks, *request)


class DelayedEvictor:
    """An `Evictor` that lets go of nothing itself: what is cached goes on all ranks at once.

    Args:
        evictor: Lets go of what this rank has, which is what all have.
    """

    def __init__(self, evictor: Evictor) -> None:
        self._evictor = evictor
        self._asked = 0

    def evictable(self) -> int:
        """See `Evictor.evictable`."""
        return self._evictor.evictable()

    def evict(self, count: int) -> bool:
        """Remember that `count` segments are to be emptied."""
        self._asked = max(self._asked, count)
        return False

    def evict_agreed(self, ranks: RankAgreement) -> bool:
        """Let go of as much as the rank needs that needs most; return whether anything went."""
        count = ranks.look(self._asked)
        self._asked = 0
        return count > 0 and self._evictor.evict(count)


def check_ranks(arguments: Any) -> None:
    """Refuse what has several processes that do not all run the same requests in the same iterations.

    Data parallelism alone passes: each of its schedulers has requests, a GPU and process groups of its own.

    Raises:
        UnsupportedError: An option has such a value.
    """
    for name, why in _REFUSED.items():
        if _is_set(value := option(arguments, name)):
            said = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise UnsupportedError(
                f"--radix-cache-backend {BACKEND} does not work with {said} and elastic KV pools: {why}",
                f"{LEAVE_POOLS}, or start without the option",
            )


def rank_agreement(arguments: Any) -> RankAgreement | None:
    """Return what the ranks of this server agree through, None when there is one.

    Raises:
        UnsupportedError: See `check_ranks`.
    """
    check_ranks(arguments)
    return _tensor_parallel_ranks(arguments)


def table_agreement(arguments: Any) -> RankAgreement | None:
    """Return the same for a server whose table of requests alone is elastic.

    Where `check_ranks` refuses pools, None: each rank admits by the rows that its own GPU has memory for.
    """
    if any(_is_set(option(arguments, name)) for name in _REFUSED):
        return None
    return _tensor_parallel_ranks(arguments)


def _is_set(value: Any) -> bool:
    return value is True or value not in (None, False, 1)


def _tensor_parallel_ranks(arguments: Any) -> RankAgreement | None:
    if option(arguments, "tp_size") in (None, 1):
        return None
    group = import_module("sglang.srt.distributed.parallel_state").get_tp_group().cpu_group

    def exchange(values: Sequence[int]) -> list[int]:
        numbers = torch.tensor(values, dtype=torch.int64)
        torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MIN, group=group)
        return [int(number) for number in numbers]

    return RankAgreement(exchange, bool(option(arguments, "sleep_on_idle")))
