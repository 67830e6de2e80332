"""A real SGLang's scheduler on elastic pools that share a budget with a real neighbour: see `kv_budget_process.py`."""

from __future__ import annotations

from typing import Any

import pytest

from farspan.integrations.sglang.adapters import ADAPTERS
from test_kv_pools import play

LIMIT = 3_500_000
CASES: dict[str, dict[str, Any]] = {
    "restless": {"seed": 2, "beside": "restless"},
    "one pool": {"seed": 5, "beside": "restless", "hybrid": False},
    "killed": {"seed": 3, "beside": "restless", "events": {"60": "kill"}},
    "limit moved": {
        "seed": 4,
        "beside": "restless",
        "events": {"40": ["limit", 1_500_000], "160": ["limit", LIMIT]},
    },
    "floor": {"seed": 6, "beside": "restless", "floor": 2_000_000},
    "idle at start": {"seed": 7, "beside": "idle"},
    "busy at start": {"seed": 8, "beside": "busy", "start_wait": 0.5},
}

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module", params=sorted(ADAPTERS))
def seen(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What became of every case, in one process."""
    cases = [
        {"budget": 4_194_304, "requests": 10, "limit": LIMIT, "most_steps": 60_000} | case
        for case in CASES.values()
    ]
    return dict(zip(CASES, play(request.param, *cases, script="kv_budget_process.py"), strict=True))


@pytest.mark.parametrize("name", [name for name in CASES if name != "busy at start"])
def test_every_request_ends_beside_a_neighbour_and_both_stay_within_the_limit(
    seen: dict[str, Any], name: str
) -> None:
    """Contents, SGLang's identities and the limit hold after every step; nothing was ended for want of memory."""
    counts, sizes = seen[name]["counts"], seen[name]["bytes"]
    assert counts["aborted"] == 0
    assert counts["finished"] >= 10
    assert counts["retracted"] <= counts["finished"]
    assert sizes["peak"] <= LIMIT
    assert sizes["begin"] == sizes["end"]


def test_a_start_that_finds_everything_in_use_says_who_has_it(seen: dict[str, Any]) -> None:
    refusal = seen["busy at start"]["refused"]
    assert "the budget shared has no room for this server to start, 0.5 s long" in refusal
    assert "neighbour (process " in refusal
    assert "0 B of it idle" in refusal
    assert "farspan kv limit SIZE" in refusal
