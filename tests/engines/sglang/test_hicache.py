"""HiCache: how much RAM it takes, when it is refused, and what it is warned of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farspan.engines.sglang.plan import plan_sglang
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.models.spec import KvDtype
from farspan.planner.request import EnginePlan, PlanRequest

GB = 10**9
SCOUT = load_model("llama-4-scout", allow_network=False)


def plan(version: str, host_memory: int | None = None, **flags: str | None) -> EnginePlan:
    given = {
        "--mem-fraction-static": "0.80",
        "--max-running-requests": "8",
        "--enable-hierarchical-cache": None,
        "--decode-attention-backend": "fa3",
        **{"--" + name.replace("_", "-"): value for name, value in flags.items()},
    }
    request = PlanRequest(
        SCOUT,
        find_gpu("H200"),
        8,
        8,
        1_000_000,
        kv_dtype=KvDtype.FP8_E4M3,
        engine_version=version,
        engine_flags=given,
    )
    return plan_sglang(replace(request, host_memory_bytes=host_memory))


def test_the_default_keeps_twice_the_gpus_tokens_in_ram() -> None:
    found = plan("0.5.6.post2")
    line = found.ledger["HiCache host pools"]
    assert line.on_host
    assert line.bytes == (2 * found.pools["full"] + 1) * 12288
    # 0.80 of the card in FP8 is some 174 GB a rank and 1.4 TB a machine.
    assert line.bytes / GB == pytest.approx(176, rel=0.03)
    assert found.ledger.host_bytes * 8 / GB == pytest.approx(1400, rel=0.03)


def test_the_host_tier_does_not_raise_the_longest_request() -> None:
    with_tier, larger = plan("0.5.16"), plan("0.5.16", hicache_ratio="4")
    assert larger.ledger.host_bytes > 1.9 * with_tier.ledger.host_bytes
    assert larger.capacity_tokens == with_tier.capacity_tokens
    assert any("does not raise the longest request" in note for note in larger.notes)


def test_a_size_in_gigabytes_overrides_the_ratio() -> None:
    found = plan("0.5.6.post2", hicache_size="100", hicache_ratio="9")
    assert found.ledger.host_bytes == pytest.approx(100 * GB, abs=12288)


def test_a_pool_smaller_than_the_gpus_is_refused_by_0_5_6_post2_only() -> None:
    old, new = plan("0.5.6.post2", hicache_size="50"), plan("0.5.16", hicache_size="50")
    assert not old.starts
    assert "not larger than the GPU's" in old.reason
    assert new.starts


def test_more_than_the_machine_has_is_refused() -> None:
    found = plan("0.5.16", host_memory=1000 * GB)
    assert not found.starts
    assert "after a reserve of 10 GiB" in found.reason
    assert plan("0.5.16", host_memory=2000 * GB).starts


def test_0_5_23_shrinks_the_default_ratio_to_the_machine_but_not_a_given_one() -> None:
    shrunk = plan("0.5.23", host_memory=1000 * GB)
    assert shrunk.starts
    budget = (1000 * GB - 10 * 2**30) / 8 * 0.8 * 0.95
    assert shrunk.ledger.host_bytes == pytest.approx(budget, rel=1e-3)
    assert not plan("0.5.23", host_memory=1000 * GB, hicache_ratio="2").starts


def test_the_default_io_backend_of_0_5_6_post2_breaks_llama_4_decoding() -> None:
    request_without_backend = plan("0.5.6.post2", decode_attention_backend="fa3")
    assert not any("silently wrong" in warning for warning in request_without_backend.warnings)
    flags: dict[str, str | None] = {
        "--mem-fraction-static": "0.80",
        "--max-running-requests": "8",
        "--enable-hierarchical-cache": None,
    }
    base = PlanRequest(
        SCOUT, find_gpu("H200"), 8, 8, 1_000_000, engine_version="0.5.6.post2", engine_flags=flags
    )
    found = plan_sglang(base)
    assert any("silently wrong past 8192" in warning for warning in found.warnings)
    assert not any("silently" in w for w in plan_sglang(replace(base, engine_version="0.5.16")).warnings)


def test_hybrid_pools_and_hicache_exclude_each_other_in_0_5_6_post2() -> None:
    found = plan("0.5.6.post2", hybrid_kvcache_ratio="1")
    assert any("cannot combine HiCache" in warning for warning in found.warnings)
