"""The built-in server on a device that refuses memory at random, for `benchmarks/soak.py`.

    python benchmarks/soak_server.py SEED MOST_FREE_MIB REFUSALS FOLDER [options of python -m farspan.builtin]

Every few seconds the device changes its mind: how much memory it says is free, up to MOST_FREE_MIB, and what share of
the calls that create or map a segment it refuses all the same, up to REFUSALS. The seed decides. When the server ends,
the KV cache's books are checked. All of it happens in the engine's process, which is this script again.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import Any

from farspan.builtin import engine_start
from farspan.builtin.__main__ import main
from farspan.builtin.engine import InferenceEngine
from farspan.builtin.engine_process import main as run_engine
from farspan.kv.memory.drivers.driver import Memory, NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.sizes import GIB

MIB = 2**20
_KIND_S = 15.0  # a start that is refused memory is refused: that is no fault
_MOOD_S = 3.0


class MoodyDevice:
    """Decides what a driver's calls do; patched into the host driver.

    Args:
        seed: Decides what it does when.
        most_free: The most bytes it says are free.
        refusals: The greatest share of calls that it refuses.
    """

    def __init__(self, seed: int, most_free: int, refusals: float) -> None:
        self._random = random.Random(seed)
        self._until = time.monotonic() + _KIND_S
        self._refusals = 0.0
        self._free = GIB
        self._amounts = (most_free, most_free, most_free // 4, most_free // 16, most_free // 40)
        self._shares = (0.0, 0.0, 0.0, refusals / 12, refusals / 3, refusals)
        self.refused = 0

    def patch(self, driver: type[HostDriver]) -> None:
        """Make every driver of the class ask this device first."""
        driver._create = self._refusing(driver._create, 1.0)  # type: ignore[method-assign]
        driver._map = self._refusing(driver._map, 0.1)  # type: ignore[method-assign]
        measured = driver.memory

        def memory(instance: HostDriver) -> Memory:
            self._think()
            real = measured(instance)
            return Memory(min(real.free, self._free), real.total)

        driver.memory = memory  # type: ignore[method-assign]

    def _refusing(self, call: Callable[..., Any], share: float) -> Callable[..., Any]:
        def refusing(*arguments: Any) -> Any:
            self._think()
            if self._random.random() < self._refusals * share:
                self.refused += 1
                raise NoRoomError("the device refuses, as the soak wants it to")
            return call(*arguments)

        return refusing

    def _think(self) -> None:
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + _MOOD_S
            self._refusals = self._random.choice(self._shares)
            self._free = self._random.choice(self._amounts)


def check_books_at_the_end(device: MoodyDevice) -> None:
    """Have every engine check its KV cache before it closes it, and say how often memory was refused."""
    close = InferenceEngine.close

    def checked(engine: InferenceEngine) -> None:
        engine._cache.check_integrity()
        close(engine)
        print(f"soak: {device.refused} refusals", file=sys.stderr)
        print("soak: the KV cache's books balance", file=sys.stderr, flush=True)

    InferenceEngine.close = checked  # type: ignore[method-assign]


def run_moody_engine() -> None:
    """Be the engine's process, on a device as the arguments say."""
    moody = MoodyDevice(int(sys.argv.pop(1)), int(sys.argv.pop(1)) * MIB, float(sys.argv.pop(1)))
    moody.patch(HostDriver)
    check_books_at_the_end(moody)
    run_engine()


if __name__ == "__main__":
    if sys.argv[1] == "engine":
        del sys.argv[1]
        run_moody_engine()
    else:
        engine_start.ENGINE_COMMAND = (sys.executable, __file__, "engine", *sys.argv[1:4])
        del sys.argv[1:4]
        main()
