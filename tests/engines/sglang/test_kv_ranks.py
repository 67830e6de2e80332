"""Elastic KV pools of tensor-parallel servers, on the CPU over gloo: see `kv_ranks_process.py`.

Each rank has a driver that refuses on its own, and some a neighbour; whatever that does to one must happen to all.
"""

from __future__ import annotations

import signal
from typing import Any

import pytest

from farspan.integrations.sglang.adapters import ADAPTERS
from test_kv_pools import play

VERSIONS = sorted(ADAPTERS)

pytestmark = pytest.mark.engines


CASES = [
    {"ranks": 2, "seed": 3, "budget": 3_000_000, "neighbours": [1], "requests": 8},
    {"ranks": 2, "seed": 6, "budget": 2_500_000, "neighbours": [0], "requests": 8, "hybrid": False},
    {"ranks": 4, "seed": 7, "budget": 3_000_000, "neighbours": [1, 2], "requests": 5},
]
KILLED = {"ranks": 3, "seed": 2, "budget": 3_000_000, "requests": 10, "dies": [1, 60]}


@pytest.fixture(scope="module", params=VERSIONS)
def played(request: pytest.FixtureRequest) -> list[list[dict[str, Any]]]:
    """Every case's ranks: all in one call, because SGLang takes long to import."""
    cases = [case | {"refuse_part": 0.2} for case in CASES]
    found: list[list[dict[str, Any]]] = play(request.param, *cases, KILLED, script="kv_ranks_process.py")
    return found


@pytest.mark.parametrize("number", range(len(CASES)))
def test_ranks_with_different_memory_stay_alike_and_every_request_ends(
    played: list[list[dict[str, Any]]], number: int
) -> None:
    """After every step of every rank requests, rows, slots and prefixes are the same."""
    case, ranks = CASES[number], played[number]
    assert [one["code"] for one in ranks] == [0] * case["ranks"], ranks
    assert all(one["counts"] == ranks[0]["counts"] for one in ranks)
    assert ranks[0]["counts"]["finished"] >= case["requests"]
    assert ranks[0]["counts"]["waited"] > 0, "somebody's memory was short"
    for one in ranks:
        assert one["bytes"]["begin"] == one["bytes"]["end"]
        assert one["refused"] > 0


def test_a_rank_that_is_killed_ends_the_others_with_an_error(played: list[list[dict[str, Any]]]) -> None:
    first, killed, last = played[-1]
    assert killed["code"] == -signal.SIGKILL
    for one in (first, last):
        assert one["code"] == 1
        assert "RuntimeError" in one["error"]
        assert "Connection" in one["error"]
