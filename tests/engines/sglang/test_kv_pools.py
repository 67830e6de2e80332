"""Elastic KV pools under a real SGLang's scheduler, prefix cache and checks, on the CPU: see `kv_pools_process.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from farspan.integrations.sglang.adapters import ADAPTERS
from sglang_on_cpu import run_process

VERSIONS = sorted(ADAPTERS)

pytestmark = pytest.mark.engines


def play(
    version: str, *cases: dict[str, Any], script: str = "kv_pools_process.py", **variables: str
) -> list[Any]:
    text = run_process(
        version, Path(__file__).parent / script, json.dumps(cases), timeout_s=1800, **variables
    )
    found: list[Any] = json.loads(text)
    return found


@pytest.mark.parametrize("tree", ["farspan", "sglang"])
@pytest.mark.parametrize("version", VERSIONS)
def test_requests_are_served_nothing_leaks_and_idle_pools_are_small(version: str, tree: str) -> None:
    """SGLang's identities hold after every step, contents survive, memory moves between the two kinds."""
    cases = [
        {"seed": 2, "budget": 4_194_304, "requests": 30},
        {"seed": 7, "budget": 3_000_000, "requests": 20, "ratio": 0.1},
        {"seed": 5, "budget": 2_500_000, "requests": 20, "hybrid": False},
        {"seed": 8, "budget": 3_000_000, "requests": 10, "page": 16},
        {"seed": 12, "budget": 1_500_000, "requests": 10, "page": 64, "hybrid": False},
    ]
    played = play(version, *cases, FARSPAN_PREFIX_TREE=tree)
    assert played[0]["surrendered"] > 0, "memory has moved"
    for case, seen in zip(cases, played, strict=True):
        assert (seen["tree"] == "LinearPrefixCache") == (tree == "farspan")
        assert seen["counts"]["finished"] >= case["requests"]
        assert seen["counts"]["cached"] > 0
        sizes = seen["bytes"]
        assert sizes["begin"] == sizes["end"] < sizes["peak"] / 50
        assert sizes["peak"] <= case["budget"]
        assert seen["physical_end"] < case["budget"] / 10


@pytest.mark.parametrize("version", VERSIONS)
def test_memory_moves_to_the_layers_whose_cache_is_used(version: str) -> None:
    """What window layers have of documents, beside what is at their end, makes room for more documents."""
    case = {"seed": 11, "budget": 8_000_000, "requests": 1, "documents": [4, 6000], "short": 40}
    (played,) = play(version, case)
    first, *again = played["documents"]
    assert not any(first)
    for turn in again:
        assert all(5800 < cached <= 6000 for cached in turn), "every document was kept"
    assert played["short"][1] >= 0.9 * 40 * 100, (
        "what is asked later takes the place of what was asked before"
    )


def test_prompts_are_scheduled_without_asking_the_device() -> None:
    """What asks waits for the pass that runs, and the device then waits for the scheduler.

    Of pages SGLang itself asks which ones slots are in, and 0.5.23 checks on the CPU what its kernel does on a GPU.
    """
    lengths = [3000, 6000, 900, 7000, 6500, 300]
    cases = [
        {"seed": 21, "budget": 3_000_000, "questions": lengths},
        {"seed": 22, "budget": 1_200_000, "questions": lengths, "hybrid": False},
    ]
    for case, seen in zip(cases, play("0.5.16", *cases), strict=True):
        assert seen["counts"]["finished"] == len(lengths)
        assert seen["evicted"] > 5000, "the pools hold less than all prompts"
        # On a GPU a kernel writes the rows.
        assert set(seen["asked"]) == {"allocation.py: write_cache_indices"}, case


@pytest.mark.parametrize("version", VERSIONS)
def test_short_prompts_find_memory_that_was_made_ready_before(version: str) -> None:
    """They are all kept, too: there is memory that nobody has."""
    case = {"seed": 23, "budget": 4_000_000, "shorts": [50] * 50}
    longer = {"seed": 24, "budget": 4_000_000, "shorts": [150] * 20}
    cases = [case, case | {"hybrid": False}, longer]
    for one, seen in zip(cases, play(version, *cases), strict=True):
        assert seen["cached"] == [sum(one["shorts"]), sum(one["shorts"]) if one.get("hybrid", True) else 0]
        sizes = seen["bytes"]
        assert sizes["begin"] == sizes["end"] < sizes["grown"], "what was made ready goes too"
        if one["shorts"][0] <= 50:  # a segment is 64 tokens
            assert seen["mapped"]["beside"] > 10, "the pools have grown"
            assert seen["mapped"]["waiting"] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_neighbour_between_admission_and_allocation_ends_nothing(version: str) -> None:
    """What is free is taken in the middle of steps, and a part of all calls for memory is refused."""
    cases = [
        {"seed": 3, "budget": 3_000_000, "requests": 20, "neighbour": True},
        {"seed": 4, "budget": 3_000_000, "requests": 20, "neighbour": True, "refuse_part": 0.2},
        {
            "seed": 6,
            "budget": 2_500_000,
            "requests": 15,
            "neighbour": True,
            "refuse_part": 0.2,
            "hybrid": False,
        },
        # A page of 128 tokens is larger than a segment here.
        {"seed": 10, "budget": 3_000_000, "requests": 8, "neighbour": True, "refuse_part": 0.2, "page": 128},
    ]
    for case, seen in zip(cases, play(version, *cases), strict=True):
        assert seen["counts"]["finished"] >= case["requests"]
        assert seen["bytes"]["begin"] == seen["bytes"]["end"]
    assert seen["refused"] > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_refusal_at_any_call_of_the_driver_ends_nothing(version: str) -> None:
    few = {"seed": 9, "budget": 1_500_000, "requests": 3}
    (calls,) = {one["calls"] for one in play(version, few)}
    assert calls > 100
    cases = [few | {"refuse_at": at} for at in range(1, calls, max(1, calls // 25))]
    for seen in play(version, *cases):
        assert seen["counts"]["finished"] >= 3
        assert seen["refused"] <= 1
        assert seen["bytes"]["begin"] == seen["bytes"]["end"]


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_that_end_at_different_times_leave_little_beside_the_least_possible(version: str) -> None:
    few = {"seed": 1, "requests": 0, "staggered": 30, "rows": 40}
    seen, paged = play(version, few | {"budget": 20_000_000}, few | {"budget": 1_400_000, "page": 16})
    for one in (seen, paged):
        assert 1 <= one["cached"] < 1.1
        assert one["counts"]["finished"] == 30
        assert one["counts"]["aborted"] == 0
    assert 1 <= seen["half evicted"] < 1.4
    assert paged["counts"]["retracted"] > 0, "memory was short while they were answered"
