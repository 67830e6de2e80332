"""Tensor-parallel ranks on real budgets: `kv_ranks_budget_process.py VERSION FOLDER CASES`, JSON in and out.

The ranks are those of `kv_ranks_process.py`; each joins the budget of its device, of its own or the same for all, where
a neighbour may be: a process with real memory, or another server that plays requests. Limits move and idle memory is
asked back while they run. After every step of every rank what is claimed in its budget is within the limit, or less
than the step before where the limit was lowered, and nobody has more memory than it has claimed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kv_pools_process
import kv_ranks_process
from kv_budget_process import Neighbour
from kv_pools_process import Server, server_class


class BudgetRank(kv_ranks_process.Rank):
    """A rank that looks at its budget after every step; rank 0 moves what the case says."""

    def __init__(self, version: str, case: dict[str, Any], rank: int, group: Any) -> None:
        from farspan.kv.memory.drivers.host import HostDriver

        HostDriver.uuid = case["devices"][rank]  # as each GPU has one
        super().__init__(version, case, rank, group)
        self.steps, self.waited = 0, 0
        self.look = Look(self.server)

    def receive(self, news: Any) -> Any:
        """See `Rank.receive`; what happens at this step has happened before anybody begins it."""
        self.steps += 1
        events = self.case.get("events", {}).get(str(self.steps), [])
        if self.rank == 0:
            for what, device, *value in events:
                happen(what, device, *value)
        received = super().receive(news)
        if events:
            self.look.begin()
        return received

    def compare(self) -> None:
        """See `Rank.compare`; all have looked when it returns, before rank 0 moves anything."""
        self.look.check()
        super().compare()
        waited = self.server.counts["waited"]
        if waited > self.waited:
            time.sleep(0.002)  # neighbours are processes: they need time to give something back
        self.waited = waited

    def seen(self) -> dict[str, Any]:
        """See `Rank.seen`; and whether idle memory was asked back, and given."""
        budget = self.server.memory.segments.budget
        asked = budget.outlook.trims_asked
        return {**super().seen(), "trims": asked, "trimmed": not budget.trim_is_asked}


class Look:
    """What a server's budget may show after each step."""

    def __init__(self, server: Server) -> None:
        self.memory = server.memory
        self.before = 0
        self.begin()

    def begin(self) -> None:
        """Begin anew, after a limit has moved."""
        self.before = self._read().held

    def check(self) -> None:
        """Raise AssertionError when the budget is exceeded by growth, or memory was created before it was claimed."""
        status = self._read()
        assert status.held <= max(status.limit or 0, self.before), f"grown beyond the limit: {status}"
        self.before = status.held
        held = self.memory.segments.budget.member.held
        assert self.memory.driver.physical_bytes() <= held, "memory is claimed before it is created"

    def _read(self) -> Any:
        from farspan.kv.memory.budget.control import read_budget

        return read_budget(self.memory.segments.budget.member.path)


def happen(what: str, device: str, limit: int | None = None) -> None:
    """Move a budget as `farspan kv` does; a trim waits for those it asks, so it does not hold up the step."""
    from farspan.kv.memory.budget.control import set_limit, trim
    from farspan.kv.memory.budget.member import budget_path

    path = budget_path("shared", device)
    if what == "limit":
        set_limit(path, limit)
    else:
        threading.Thread(target=trim, args=(path,), daemon=True).start()


def serve_beside(kind: type[Server], case: dict[str, Any]) -> dict[str, Any]:
    """Play another server's requests, of one process, on the same budget."""

    class Beside(kind):  # type: ignore[misc, valid-type]
        look: Look | None = None

        def step(self) -> None:
            waited = self.counts["waited"]
            super().step()
            self.look = self.look or Look(self)
            self.look.check()
            if self.counts["waited"] > waited:
                time.sleep(0.002)

    return kv_pools_process.play(Beside({**case, "ranks": 1}))


def play_ranks(version: str, case: dict[str, Any]) -> dict[str, Any]:
    """Return what became of the ranks, and of the server beside them if it is one."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        os.environ["FARSPAN_BUDGET"] = "shared"
        os.environ["FARSPAN_BUDGET_DIR"] = folder
        os.environ["FARSPAN_BUDGET_LIMIT"] = str(case["limit"])
        neighbours, servers = [], []
        if "beside" in case:
            neighbours.append(Neighbour("restless", case["limit"], case["seed"], case["beside"]))
        if "server" in case:
            server = {**case, **case["server"]}
            servers.append(kv_ranks_process.fork(partial(serve_beside, server_class(version), server)))
        try:
            begin = partial(BudgetRank, version, case)
            ranks = kv_ranks_process.run(folder, case["ranks"], begin)
            beside = kv_ranks_process.results(servers)
        finally:
            for one in neighbours:
                one.end()
    return {"ranks": ranks, "beside": beside}


if __name__ == "__main__":
    kv_pools_process.prepare(sys.argv[1], sys.argv[2])
    print(json.dumps([play_ranks(sys.argv[1], case) for case in json.loads(sys.argv[3])]))
