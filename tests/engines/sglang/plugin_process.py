"""Runs the plug-in against one SGLang's own request pool: `plugin_process.py VERSION FOLDER SEEDS STEPS`, JSON out.

FOLDER holds the unpacked `sglang` package. The pool, its configurator, the hook registry and the scheduler class are
SGLang's; kernels are stand-ins. Random requests come, grow and go; after every step SGLang's own identity (free
rows + rows of requests = size) and the contents of every row are checked, and that all of the table can be read.
"""

from __future__ import annotations

import json
import logging
import random
import sys
from types import SimpleNamespace as Values
from typing import Any

import torch

from oracle import HIDDEN
from stubs import install

SIZE, WIDTH = 12, 40_000


def request(new: bool, version: str, prompt: int, most: int) -> Any:
    one = Values(
        origin_input_ids=[7] * prompt,
        sampling_params=Values(max_new_tokens=most),
        inflight_middle_chunks=1,
        kv_committed_len=prompt,
        req_pool_idx=None,
    )
    if version != "0.5.16":
        one.kv = Row(prompt)
    return one


class Row:
    def __init__(self, prompt: int) -> None:
        self.req_pool_idx: int | None = None
        self.kv_allocated_len = prompt

    @property
    def holds_kv(self) -> bool:
        return self.req_pool_idx is not None


def arguments(**changes: Any) -> Any:
    from farspan.integrations.sglang.adapters import SETTINGS
    from farspan.integrations.sglang.rank_agreement import _REFUSED

    plain = {name: values[0] for name, (values, _) in SETTINGS.items()}
    one_process = dict.fromkeys(("tp_size", *_REFUSED))
    return Values(**{**plain, **one_process, "radix_cache_backend": "farspan", **changes})


def build(pools: Any, configurator: Any, **changes: Any) -> Any:
    me = Values(server_args=arguments(**changes), model_config=Values(context_len=WIDTH - 4), device="cpu")
    return configurator.KVCacheConfigurator._build_default_req_pool(
        me, max_num_reqs=SIZE, extra_max_context_len=4
    )


def play(pool: Any, version: str, seed: int, steps: int) -> dict[str, int]:
    """Let random requests come and go; return how often what happened."""
    chance, table = random.Random(seed), pool.elastic_table
    rows: dict[int, tuple[Any, int]] = {}  # row -> (request, tokens written)
    counts = {"allocated": 0, "extended": 0, "refused": 0, "freed": 0, "idle": 0}
    for _ in range(steps):
        what = chance.random()
        if what < 0.4:
            prompts = [chance.choice([1, 900, 5000, WIDTH - 10]) for _ in range(chance.randint(1, 3))]
            new = [request(True, version, each, chance.choice([1, 500, 10**9])) for each in prompts]
            given = pool.alloc(new)
            if given is None:
                counts["refused"] += 1
                assert len(pool.free_slots) < len(new)
            else:
                counts["allocated"] += 1
                for row, each, prompt in zip(given, new, prompts, strict=True):
                    assert row not in rows
                    pool.req_to_token[row, :prompt] = torch.arange(prompt, dtype=torch.int32) + row
                    rows[row] = (each, prompt)
        elif what < 0.7 and rows:
            row = chance.choice(sorted(rows))
            one, written = rows[row]
            assert pool.alloc([one]) == [row]
            most = min(WIDTH, len(one.origin_input_ids) + one.sampling_params.max_new_tokens)
            stop = min(most, written + chance.randint(1, 400))
            pool.write((row, slice(written, stop)), torch.arange(written, stop, dtype=torch.int32) + row)
            rows[row] = (one, stop)
            counts["extended"] += 1
        elif what < 0.95 and rows:
            row = chance.choice(sorted(rows))
            pool.free(rows.pop(row)[0])
            counts["freed"] += 1
        else:
            counts["idle"] += 1
            table._pool.clock.now += 20.0
            table.tick()
        assert len(pool.free_slots) + len(rows) == pool.size
        assert sorted([*pool.free_slots, *rows]) == list(range(1, pool.size + 1))
        assert 0 <= pool.available_size() <= len(pool.free_slots)
        table.check_integrity()
        for row, (_, written) in rows.items():
            found = pool.req_to_token[row, :written]
            assert torch.equal(found, torch.arange(written, dtype=torch.int32) + row)
    rectangle = pool.req_to_token[torch.arange(pool.size + 1)]
    assert rectangle.shape == (SIZE + 1, WIDTH)
    for one, _ in rows.values():
        pool.free(one)
    table._pool.clock.now += 20.0
    for _ in range(2):
        table.tick()
        table._pool.clock.now += 20.0
    assert int(pool.req_to_token[1:].count_nonzero()) <= WIDTH  # row 0's last segment is shared with row 1
    counts["mapped_after"] = table.mapped_bytes
    pool.clear()
    assert pool.available_size() == SIZE
    pool.ranks = Values(least=lambda rows: min(rows, 3))  # another rank has less memory
    pool.agree_rows()
    assert pool.available_size() == 3
    return counts


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def main(version: str, folder: str, seeds: list[int], steps: int) -> dict[str, Any]:
    sys.path.insert(0, folder)
    logging.disable(logging.CRITICAL)
    if version == "0.5.16":  # the other has what it imports: see `sglang_on_cpu.py`
        install("sglang", HIDDEN)
    import sglang.srt.mem_cache.kv_cache_configurator as configurator
    import sglang.srt.mem_cache.memory_pool as pools
    import sglang.srt.mem_cache.registry as registry
    from sglang.srt.plugins.hook_registry import HookRegistry

    import farspan.integrations.sglang.plugin as plugin
    from farspan.errors import UnsupportedError
    from farspan.integrations.sglang.adapters import adapter_for, shape

    answer: dict[str, Any] = {}
    answer["shapes"] = {place: shape(place) for place in adapter_for(version).shapes}
    plugin.version = lambda name: version
    plugin.register()
    HookRegistry.apply_hooks()
    assert "farspan" in registry.registered_radix_cache_backends()
    assert plugin._BUILDER in HookRegistry._patched
    assert plugin._IDLE in HookRegistry._patched
    if hasattr(configurator, "get_exec"):
        configurator.get_exec = lambda: Values(features=Values(enable_memory_saver=False))
    stock = build(pools, configurator, radix_cache_backend=None)
    answer["stock"] = type(stock).__name__
    refused = {}
    for name, value in (
        ("speculative_algorithm", "EAGLE"),
        ("disaggregation_mode", "decode"),
        ("dcp_size", 2),
    ):
        try:
            build(pools, configurator, **{name: value})
        except UnsupportedError as error:
            refused[name] = str(error)
    answer["refused"] = refused
    try:
        plugin.build_prefix_cache(adapter_for(version), Values(params=Values(req_to_token_pool=stock)))
    except UnsupportedError as error:
        answer["stock_refused"] = str(error)
    given = arguments(radix_eviction_policy="lru")  # and 0.5.23's override of a model
    given._resolved_overrides = [("Qwen3VLForConditionalGeneration", {"radix_eviction_policy": "priority"})]
    answer["policy"] = adapter_for(version).options(given).radix_eviction_policy
    answer["played"] = {}
    for seed in seeds:
        pool = build(pools, configurator)
        assert isinstance(pool, pools.ReqToTokenPool)
        pool.elastic_table._pool.clock = Clock()
        idle = pool.elastic_table.mapped_bytes
        counts = play(pool, version, seed, steps)
        answer["played"][seed] = {"idle": idle, "counts": counts, "shape": list(pool.req_to_token.shape)}
    return answer


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3], json.loads(sys.argv[3]), int(sys.argv[4]))))
