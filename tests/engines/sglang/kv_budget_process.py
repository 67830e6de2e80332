"""A scheduler's life beside a neighbour on one budget: `kv_budget_process.py VERSION FOLDER CASES`, JSON in and out.

The scheduler is that of `kv_pools_process.py`; the neighbour is a process of its own with real memory. After every step
what both have claimed is within the limit, or less than the step before where the limit was lowered, and nobody has
more memory than it has claimed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kv_pools_process import Server, play, prepare, server_class

NEIGHBOUR = """
import random, sys, time
from farspan.kv.memory.budget.member import BudgetMember, budget_path
from farspan.kv.memory.drivers.driver import NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.segments import SegmentPool
kind, limit, seed, device = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
member = BudgetMember(budget_path("shared", device), "neighbour", 2**40, limit=limit)
driver = HostDriver()
pool = SegmentPool(driver, 4096, quiet_s=0.2 if kind == "restless" else 1e6, budget=member, reread_s=0.001)
chance, lent = random.Random(seed), []
if kind != "restless":
    lent = pool.take(limit // 4096)
if kind == "idle":
    pool.give(lent)
pool.tick()
print("ready", flush=True)
while True:
    if kind == "restless":
        try:
            if chance.random() < 0.4:
                lent += pool.take(chance.randint(1, 300))
            elif lent:
                count = chance.randint(1, len(lent))
                pool.give(lent[:count])
                del lent[:count]
        except NoRoomError:
            if chance.random() < 0.5:
                pool.give(lent)
                lent = []
    pool.tick()
    assert driver.physical_bytes() <= member.held, "memory is claimed before it is created"
    time.sleep(0.002)
"""


class Neighbour:
    """A process that has a part of the budget: `restless`, `idle` with all of it, or `busy` with all of it."""

    def __init__(self, kind: str, limit: int, seed: int, device: str = "host") -> None:
        command = [sys.executable, "-c", NEIGHBOUR, kind, str(limit), str(seed), device]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        assert self.process.poll() in (None, -signal.SIGKILL), "the neighbour lives, or was killed"
        self.kill()


def beside(kind: type[Server], case: dict[str, Any], neighbour: Neighbour) -> Server:
    """Return a server that is watched, and has what the case says happen to it and its neighbour."""
    from farspan.kv.memory.budget.control import find_budgets, read_budget, set_limit

    class Beside(kind):  # type: ignore[misc, valid-type]
        steps = 0
        sum_before = 0

        def step(self) -> None:
            waited = self.counts["waited"]
            super().step()
            self.steps += 1
            (path,) = find_budgets()
            match self.case.get("events", {}).get(str(self.steps)):
                case "kill":
                    neighbour.kill()
                case ["limit", limit]:
                    set_limit(path, limit)
                    self.sum_before = read_budget(path).held  # the neighbour may have grown until then
            status = read_budget(path)
            assert status.held <= max(status.limit or 0, self.sum_before), "nobody grows beyond the limit"
            self.sum_before = status.held
            member = self.memory.segments.budget.member
            assert self.memory.driver.physical_bytes() <= member.held, (
                "memory is claimed before it is created"
            )
            if self.counts["waited"] > waited:
                time.sleep(0.002)  # the neighbour is a process: it needs time to give something back

    return Beside(case)


def play_beside(kind: type[Server], case: dict[str, Any]) -> dict[str, Any]:
    from farspan.errors import DoesNotFitError

    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        os.environ["FARSPAN_BUDGET"] = "shared"
        os.environ["FARSPAN_BUDGET_DIR"] = folder
        os.environ["FARSPAN_BUDGET_LIMIT"] = str(case["limit"])
        os.environ["FARSPAN_BUDGET_FLOOR"] = str(case.get("floor", 0))
        os.environ["FARSPAN_START_WAIT_S"] = str(case.get("start_wait", 30))
        neighbour = Neighbour(case["beside"], case["limit"], case["seed"])
        try:
            server = beside(kind, case, neighbour)
        except DoesNotFitError as error:
            return {"refused": str(error)}
        else:
            return play(server)
        finally:
            neighbour.end()


if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], on_gpu=False)
    kind = server_class(sys.argv[1])
    print(json.dumps([play_beside(kind, case) for case in json.loads(sys.argv[3])]))
