"""Tensor-parallel ranks of a real SGLang on budgets that others share: see `kv_ranks_budget_process.py`."""

from __future__ import annotations

from typing import Any

import pytest

from farspan.integrations.sglang.adapters import ADAPTERS
from test_kv_pools import play

CASES: dict[str, dict[str, Any]] = {
    # Each rank has a GPU, and not all requests have room: a neighbour on one, and the other's limit is low for a while.
    "a budget each": {
        "seed": 5,
        "limit": 1_200_000,
        "devices": ["gpu-0", "gpu-1"],
        "beside": "gpu-1",
        "events": {
            "20": [["limit", "gpu-0", 700_000]],
            "60": [["trim", "gpu-1"]],
            "140": [["limit", "gpu-0", 1_200_000]],
        },
    },
    # As on the CPU, where both are of one device.
    "one budget": {
        "seed": 6,
        "limit": 4_000_000,
        "page": 16,
        "devices": ["host", "host"],
        "beside": "host",
        "events": {
            "20": [["limit", "host", 900_000], ["trim", "host"]],
            "140": [["limit", "host", 4_000_000]],
        },
    },
    "another server": {
        "seed": 15,
        "budget": 2_500_000,
        "limit": 3_500_000,
        "hybrid": False,
        "devices": ["host", "host"],
        "server": {"seed": 16, "requests": 8},
        "events": {"60": [["trim", "host"]]},
    },
}

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module", params=sorted(ADAPTERS))
def played(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What became of every case, in one process."""
    usual = {"ranks": 2, "budget": 3_000_000, "requests": 6, "most_steps": 60_000}
    cases = [usual | case for case in CASES.values()]
    return dict(zip(CASES, play(request.param, *cases, script="kv_ranks_budget_process.py"), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_ranks_stay_alike_within_their_budgets_and_every_request_ends(
    played: dict[str, Any], name: str
) -> None:
    """After every step of every rank requests, rows, slots and prefixes are the same, and the limit holds."""
    case, ranks, beside = CASES[name], played[name]["ranks"], played[name]["beside"]
    assert [one["code"] for one in (*ranks, *beside)] == [0] * (2 + ("server" in case)), played[name]
    assert ranks[0]["counts"] == ranks[1]["counts"]
    assert ranks[0]["counts"]["finished"] >= 6
    assert ranks[0]["counts"]["waited"] > 0, "memory was short"
    for one in (*ranks, *beside):
        assert one["counts"]["aborted"] == 0
        assert one["bytes"]["begin"] == one["bytes"]["end"] < one["bytes"]["peak"] <= case["limit"]
    trimmed = [device for events in case["events"].values() for what, device, *_ in events if what == "trim"]
    for one, device in zip(ranks, case["devices"], strict=True):
        assert one["trims"] == trimmed.count(device)
        assert one["trimmed"]
