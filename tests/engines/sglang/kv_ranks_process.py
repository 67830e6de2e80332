"""Tensor-parallel servers on elastic KV pools: `kv_ranks_process.py VERSION FOLDER CASES`, JSON in and out.

Every rank is a process, forked when SGLang is imported, with the scheduler, pools and checks of `kv_pools_process.py`,
joined to the others by SGLang's own process groups over gloo. Rank 0 hands out what came in, as SGLang's does; each has
a clock and a driver of its own, and some a neighbour. After every step all of them must have the same requests, rows,
slots and prefixes.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import IO, Any

import numpy as np
import torch

import kv_pools_process
from kv_pools_process import Server, server_class


def join(path: str, rank: int, ranks: int) -> Any:
    """Make SGLang's process groups of this rank; return its module of them."""
    from sglang.srt.distributed import parallel_state
    from sglang.srt.environ import envs

    envs.SGLANG_USE_MESSAGE_QUEUE_BROADCASTER.set(False)  # it needs zmq, which may be a stand-in
    parallel_state.init_distributed_environment(
        world_size=ranks,
        rank=rank,
        local_rank=rank,
        distributed_init_method=f"file://{path}",
        backend="gloo",
        timeout=60,
    )
    if "tensor_model_parallel_size" in inspect.signature(parallel_state.initialize_model_parallel).parameters:
        parallel_state.initialize_model_parallel(tensor_model_parallel_size=ranks, backend="gloo")
    else:
        from sglang.srt.runtime_context import get_context

        get_context().override_server_args(device="cpu", tp_size=ranks).install()
        parallel_state.initialize_model_parallel(backend="gloo")
    return parallel_state


class Rank:
    """A server of one rank, what it exchanges with the others, and what it must have in common with them."""

    def __init__(self, version: str, case: dict[str, Any], rank: int, group: Any) -> None:
        self.rank, self.ranks, self.group, self.case = rank, case["ranks"], group, case
        mine = {**case, "neighbour": rank in case.get("neighbours", ())}
        self.server = server_class(version)(mine)
        # Refusals and a clock of its own; the neighbour too, which begins with the case.
        self.server.refusals._chance = random.Random(f"{case['seed']} {rank}")
        self.exchanges, self.seconds = 0, 0.0
        agreement = self.server.memory.ranks
        agreement._clock = self.server.clock
        self._exchange, agreement._exchange = agreement._exchange, self._counted

    def _counted(self, values: Sequence[int]) -> list[int]:
        begun = time.perf_counter()
        found = self._exchange(values)
        self.exchanges += 1
        self.seconds += time.perf_counter() - begun
        return found

    def receive(self, news: Any) -> Any:
        """Return what rank 0 has: the beginning of an iteration."""
        box = [news]
        torch.distributed.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def seen(self) -> dict[str, Any]:
        """Return what else is to be known of it at the end."""
        microseconds = round(self.seconds / max(self.exchanges, 1) * 1e6)
        return {"exchanges": self.exchanges, "exchange_us": microseconds}

    def compare(self) -> None:
        """Raise AssertionError when ranks differ."""
        mine = self.state()
        number = int(hashlib.blake2b(repr(mine).encode(), digest_size=7).hexdigest(), 16)
        bounds = torch.tensor([number, -number])
        torch.distributed.all_reduce(bounds, torch.distributed.ReduceOp.MIN, group=self.group)
        if bounds.tolist() == [number, -number]:
            return
        every: list[Any] = [None] * self.ranks
        torch.distributed.all_gather_object(every, mine, group=self.group)
        for name, value in every[0].items():
            others = [one[name] for one in every]
            assert all(other == value for other in others), f"ranks differ in {name}: {others}"

    def state(self) -> dict[str, Any]:
        server = self.server
        ledgers = server.ledgers()
        return {
            "running": [one.rid for one in server.running.reqs],
            "waiting": [one.rid for one in server.s.waiting_queue],
            "chunked": server.s.chunked_req and server.s.chunked_req.rid,
            "counts": dict(server.counts),
            "rows": sorted(server.requests.free_slots),
            "slots of rows": [
                digest(server.requests.req_to_token[server.row_of(one), : one.kv.kv_allocated_len].numpy())
                for one in server.running.reqs
            ],
            "used slots": [digest(one.pages.in_use()) for one in ledgers],
            "available": [one.available for one in ledgers],
            "backed": [digest(one.pages._page_refs._backed) for one in ledgers],
            "tree": tree_state(server.tree),
        }


def tree_state(cache: Any) -> Any:
    tree = getattr(cache, "tree", None)
    if tree is None:  # SGLang's own
        return [int(cache.evictable_size()), int(cache.protected_size())]
    return [
        (
            *(node.start, node.end, node.locks, node.last),
            digest(torch.cat(node.slots.views(node.start, node.end)).numpy()),
            [(span.start, span.stop, span.last) for span in node.spans],
        )
        for node in tree.nodes()
    ]


def digest(numbers: np.ndarray[Any, Any]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(numbers).tobytes(), digest_size=8).hexdigest()


def play(one: Rank) -> dict[str, Any]:
    """Requests of several conversations come at random; ranks stay alike, all requests end, and nothing leaks."""
    server, case = one.server, one.case
    server.begin(case["seed"])
    server.case_chance = random.Random(f"{case['seed']} {one.rank}")
    chance = random.Random(case["seed"])  # of rank 0 alone
    begun = [array("q", [chance.randrange(1, 50_000) for _ in range(count)]) for count in (5, 300, 900, 2000)]
    server.refusals.armed = True
    begin_bytes, sent, steps, peak = server.mapped(), 0, 0, 0
    while sent < case["requests"] or not server.idle:
        news: list[tuple[array[int], int]] = []
        if one.rank == 0 and sent < case["requests"] and chance.random() < 0.25:
            for _ in range(chance.choice([1, 1, 4])):
                words = [chance.randrange(1, 50_000) for _ in range(chance.choice([1, 40, 700, 3000]))]
                tokens = chance.choice(begun) + array("q", words)
                news.append((tokens, chance.choice([1, 20, 200])))
                if chance.random() < 0.5:
                    begun[chance.randrange(4)] = tokens[:4000]
        for tokens, most in one.receive(news):
            server.send(tokens, most)
            sent += 1
        server.clock.now += 0.05 * (1 + 0.7 * one.rank)
        server.step()
        one.compare()
        peak = max(peak, server.mapped())
        steps += 1
        if steps > case.get("most_steps", 6_000):
            raise AssertionError(f"requests are never served: {server.counts}, {server.secured.describe()}")
        if case.get("dies") == [one.rank, steps]:
            os.kill(os.getpid(), signal.SIGKILL)
        if steps % 40 == 0:
            leave(server)
    server.refusals.armed = False
    leave(server)
    server.tree.reset()
    server.requests.clear()
    server.allocator.clear()
    server.rest(60)
    server.check_idle()
    one.compare()
    return {
        "counts": server.counts,
        "steps": steps,
        "bytes": {"begin": begin_bytes, "peak": peak, "end": server.mapped()},
        "physical_end": server.memory.driver.physical_bytes(),
        "refused": server.refusals.refused,
        **one.seen(),
    }


def leave(server: Server) -> None:
    """Have the neighbour go."""
    server.memory.driver._limit = None
    server.memory.segments._limit_until = float("-inf")


def run(path: str, ranks: int, begin: Callable[[int, Any], Rank]) -> list[dict[str, Any]]:
    """Play a case with all its ranks; return for each how it ended, and what it saw or the end of its error.

    Args:
        path: Folder of the processes' meeting point.
        ranks: How many.
        begin: Returns the rank of a number and a process group.
    """

    def rank_of(number: int) -> dict[str, Any]:
        groups = join(f"{path}/group", number, ranks)
        return play(begin(number, groups.get_tp_group().cpu_group))

    return results([fork(partial(rank_of, number)) for number in range(ranks)])


def results(children: list[tuple[int, IO[str]]]) -> list[dict[str, Any]]:
    """Wait for what was forked; return for each how it ended, and what it returned or the end of its error."""
    found = []
    for child, answer in children:
        text = answer.read()
        answer.close()
        _, status = os.waitpid(child, 0)
        found.append({"code": os.waitstatus_to_exitcode(status), **json.loads(text or "{}")})
    return found


def fork(task: Callable[[], dict[str, Any]]) -> tuple[int, IO[str]]:
    """Do something in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, os.fdopen(reader)
    code = 0
    with os.fdopen(writer, "w") as answer:
        try:
            found = task()
        except BaseException:  # noqa: BLE001 the test shows it
            code, found = 1, {"error": traceback.format_exc()[-2000:]}
        json.dump(found, answer)
    os._exit(code)


def main(version: str, folder: str, cases: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    kv_pools_process.prepare(version, folder)
    found = []
    for case in cases:
        with tempfile.TemporaryDirectory() as path:
            found.append(run(path, case["ranks"], partial(Rank, version, case)))
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3], json.loads(sys.argv[3]))))
