"""Elastic KV pools of tensor-parallel servers, on the CPU over gloo: see `kv_ranks_process.py`.

Each rank has a driver that refuses on its own, and some a neighbour; whatever that does to one must happen to all.
"""

from __future__ import annotations

import signal
from typing import Any

import pytest

from farspan.integrations.sglang.adapters import ADAPTERS
from test_kv_pools import play

VERSIONS = sorted(version for version, adapter in ADAPTERS.items() if adapter.elastic_pools)

pytestmark = pytest.mark.engines


def play_ranks(version: str, *cases: dict[str, Any], **variables: str) -> list[list[dict[str, Any]]]:
    return play(version, *cases, script="kv_ranks_process.py", **variables)


@pytest.mark.parametrize("version", VERSIONS)
def test_ranks_with_different_memory_stay_alike_and_every_request_ends(version: str) -> None:
    """After every step of every rank requests, rows, slots and prefixes are the same."""
    cases = [
        {"ranks": 2, "seed": 3, "budget": 3_000_000, "neighbours": [1], "requests": 8},
        {"ranks": 2, "seed": 6, "budget": 2_500_000, "neighbours": [0], "requests": 8, "hybrid": False},
        {"ranks": 4, "seed": 7, "budget": 3_000_000, "neighbours": [1, 2], "requests": 5},
    ]
    cases = [one | {"refuse_part": 0.2} for one in cases]
    for case, ranks in zip(cases, play_ranks(version, *cases), strict=True):
        assert [one["code"] for one in ranks] == [0] * case["ranks"], ranks
        assert all(one["counts"] == ranks[0]["counts"] for one in ranks)
        assert ranks[0]["counts"]["finished"] >= case["requests"]
        assert ranks[0]["counts"]["waited"] > 0, "somebody's memory was short"
        for one in ranks:
            assert one["bytes"]["begin"] == one["bytes"]["end"]
            assert one["refused"] > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_rank_that_is_killed_ends_the_others_with_an_error(version: str) -> None:
    (ranks,) = play_ranks(
        version, {"ranks": 3, "seed": 2, "budget": 3_000_000, "requests": 10, "dies": [1, 60]}
    )
    assert ranks[1]["code"] == -signal.SIGKILL
    for one in (ranks[0], ranks[2]):
        assert one["code"] == 1
        assert "RuntimeError" in one["error"]
        assert "onnection" in one["error"]
