"""SGLang's own code beside ours on random models and settings: every figure must be equal.

Each version's package is unpacked in a folder of its own (`make test-engines` prepares `.sglang-VERSION`;
FARSPAN_SGLANG_SOURCE names another parent folder). Nothing is skipped when one is missing: the test fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import integers

from farspan.engines.sglang.defaults import capture_batch_sizes, default_fraction, prefill_capture_sizes
from farspan.engines.sglang.versions import SglangRules, rules_of
from sglang_cases import default_cases, graph_cases, our_defaults, our_graph_bytes, our_pools, pool_cases
from sglang_golden import RECORDED_VERSIONS
from sglang_process import Oracle

pytestmark = pytest.mark.engines

EXAMPLES = settings(
    max_examples=300,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", params=RECORDED_VERSIONS)
def oracle(request: pytest.FixtureRequest) -> Iterator[tuple[Oracle, SglangRules]]:
    process = Oracle(request.param)
    yield process, rules_of(request.param)
    process.close()


def test_pools_rows_and_request_table_are_sglangs_own(oracle: tuple[Oracle, SglangRules]) -> None:
    process, rules = oracle
    seen: set[str] = set()

    @EXAMPLES
    @given(pool_cases())
    def check(case: dict[str, Any]) -> None:
        theirs, mine = process.ask(case), our_pools(case, rules)
        if "stops" in theirs:
            assert mine == {"stops": True}
            return
        assert mine == theirs
        seen.add(case["family"] + ("+split" if theirs["window"] else ""))

    check()
    assert seen == {"full", "chunked", "chunked+split", "window", "window+split", "mla", "recurrent"}


def test_pools_beside_a_draft_are_sglangs_own(oracle: tuple[Oracle, SglangRules]) -> None:
    process, rules = oracle
    if not rules.counts_drafts:
        assert rules.draft_reserve_mib  # sized without it: the draft comes out of the reserve
        return
    drafts = pool_cases().filter(lambda case: case["family"] != "recurrent")

    @EXAMPLES
    @given(drafts, integers(1, 3))
    def check(case: dict[str, Any], layers: int) -> None:
        case = {**case, "draft_layers": layers}
        theirs = process.ask(case)
        assert our_pools(case, rules) == ({"stops": True} if "stops" in theirs else theirs)

    check()


def test_graph_state_is_sglangs_own_to_the_byte(oracle: tuple[Oracle, SglangRules]) -> None:
    process, rules = oracle

    @EXAMPLES
    @given(graph_cases())
    def check(case: dict[str, Any]) -> None:
        assert our_graph_bytes(case, rules) == process.ask(case)["bytes"]

    check()


def test_defaults_of_a_card_are_sglangs_own(oracle: tuple[Oracle, SglangRules]) -> None:
    process, rules = oracle

    @EXAMPLES
    @given(default_cases())
    def check(case: dict[str, Any]) -> None:
        mine, theirs = our_defaults(case, rules), process.ask(case)
        assert mine["chunk"] == theirs["chunk"]
        if case["graphs"]:
            assert mine["graph_bs"] == theirs["graph_bs"]
        assert mine["fraction"] == pytest.approx(theirs["fraction"], abs=0.0011)

    check()
    assert prefill_capture_sizes(8192)[-1] == 8192
    assert capture_batch_sizes(512, always_include_max=True)[-1] == 512
    assert default_fraction(143771, 8192, 16384, 512, 8, 0.0) == 0.897
