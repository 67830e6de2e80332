"""The elastic memory of one SGLang process: the pool of segments that its tables and its KV cache share."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch

from farspan.errors import DoesNotFitError, InputError, UnsupportedError
from farspan.integrations.sglang.memory_gauges import memory_gauges
from farspan.integrations.sglang.rank_agreement import RankAgreement
from farspan.integrations.sglang.shared_budget import holders, server_budget
from farspan.kv.memory.budget.pool_budget import PoolBudget
from farspan.kv.memory.cap import Cap
from farspan.kv.memory.drivers.cuda import CudaDriver
from farspan.kv.memory.drivers.driver import Driver, NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.memory_log import MemoryLog
from farspan.kv.memory.segments import SegmentPool
from farspan.kv.memory.zero_backed_rows import table_segment_bytes

logger = logging.getLogger("sglang.farspan")

QUIET_VARIABLE = "FARSPAN_QUIET_S"
START_VARIABLE = "FARSPAN_START_WAIT_S"

# What KV pools grow by in each layer: the unit of a GPU's memory, and no less on the host, where each is a mapping too.
POOL_SEGMENT_BYTES = 2 * 2**20
# Left to the device beside what a request is admitted for: a neighbour may take memory between the two.
_HEADROOM = 256 * 2**20
# Seconds between two notes: an idle scheduler ticks at every turn of its loop.
_NOTE_S = 0.1
# Seconds between two looks at a start that waits.
_LOOK_S = 0.05

T = TypeVar("T")


class DeviceMemory:
    """What everything elastic in one process is made of.

    Args:
        device: As SGLang names it.
        table_bytes: Of the table of requests.
        cap_bytes: The most to hold, KV cache and tables together; None for what the device has.
        arguments: SGLang's, which name the server.
        ranks: Those that run the same requests on other devices; None when there are none, or they do not agree.

    Attributes:
        segments: The one pool of physical memory.
        ranks: See above.
        streams: CUDA streams whose work may touch the memory, beside the current one.
    """

    def __init__(
        self,
        device: str,
        table_bytes: int,
        cap_bytes: int | None,
        arguments: Any,
        ranks: RankAgreement | None = None,
    ) -> None:
        self.ranks = ranks
        self.streams: list[Any] = []
        self.driver, self.wait = self._open_driver(device)
        if cap_bytes is None:  # the table alone, which may take larger ones
            segment = table_segment_bytes(self.driver.granularity, table_bytes)
        else:
            segment = max(self.driver.granularity, POOL_SEGMENT_BYTES)
        headroom = _HEADROOM if self.driver.name == "cuda" else 0
        self.segments = SegmentPool(
            self.driver,
            segment,
            Cap(fixed_bytes=cap_bytes, headroom_bytes=headroom),
            quiet_s=_seconds(QUIET_VARIABLE, 10.0),
            budget=server_budget(arguments, self.driver, ranks_agree=ranks is not None),
        )
        self._log = MemoryLog(self.segments, logger.info)
        self._gauges = memory_gauges(arguments, self.segments)
        self._next_note = float("-inf")
        self._start_wait_s = _seconds(START_VARIABLE, 30.0)
        self._start_until: float | None = None

    def at_start(self, make: Callable[[], T]) -> T:
        """Return what `make` makes of the memory when the server starts; it is called again until there is room.

        Members of the same budget hear what is lacking and give back what they have idle. What is waited is bounded,
        for all that a server makes together.

        Raises:
            DoesNotFitError: There is no room still; it says who holds it.
        """
        while True:
            try:
                return make()
            except NoRoomError as error:
                budget = self.segments.budget
                if budget is None:  # nobody is asked to give anything back
                    raise DoesNotFitError(
                        f"no memory to start with: {error.message}",
                        "free memory of the device, or use another",
                    ) from error
                now = time.monotonic()
                if self._start_until is None:
                    self._start_until = now + self._start_wait_s
                    logger.info(
                        "farspan: the start waits up to %g s for memory: %s", self._start_wait_s, error
                    )
                if now >= self._start_until:
                    raise _no_room_to_start(budget, self._start_wait_s) from error
                time.sleep(_LOOK_S)
                self.segments.tick()

    def note(self) -> None:
        """Tell SGLang's log and metrics what has become of the memory, if it is time; call it with every tick."""
        now = self.segments.clock()
        if now < self._next_note:
            return
        self._next_note = now + _NOTE_S
        self._log.note()
        if self._gauges is not None:
            self._gauges.set()

    def _open_driver(self, device: str) -> tuple[Driver, Callable[[], None]]:
        """Return the driver of the device SGLang computes on, and what waits for its queued work."""
        if torch.device(device).type == "cpu":
            return HostDriver(), lambda: None
        if torch.device(device).type != "cuda":
            raise UnsupportedError(
                f"the plug-in has no elastic memory on the device {device}", "use an NVIDIA GPU or the CPU"
            )
        number = torch.cuda.current_device()
        return CudaDriver(number, partial(self._streams_of, number)), partial(torch.cuda.synchronize, number)

    def _streams_of(self, number: int) -> Sequence[int]:
        # A forward pass that is queued on a stream of its own still reads what was just freed.
        return [int(one.cuda_stream) for one in (torch.cuda.current_stream(number), *self.streams)]


def _no_room_to_start(budget: PoolBudget, waited_s: float) -> DoesNotFitError:
    return DoesNotFitError(
        f"the budget {budget.name} has no room for this server to start, {waited_s:g} s long: {holders(budget.member)}",
        "raise its limit (farspan kv limit SIZE) or lower a server's (farspan kv limit SIZE --server NAME), wait until "
        "its requests have ended, or start this server first with FARSPAN_BUDGET_FLOOR",
    )


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{variable} is {text!r}", "set it to a number of seconds, 0 or more")
    return seconds
