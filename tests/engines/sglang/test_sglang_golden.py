"""farspan beside the answers of three SGLang versions' own code, recorded (see sglang_golden.py)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from farspan.engines.sglang.versions import SglangRules, rules_of
from sglang_cases import our_defaults, our_graph_bytes, our_pools
from sglang_golden import GOLDEN, GRAPH_VERSIONS, RECORDED_VERSIONS

RECORDS: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))


def recorded(kind: str, rules: SglangRules) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Cases of one kind and a version's answers to them."""
    return [
        (record["case"], record["answers"][rules.version])
        for record in RECORDS
        if record["case"]["kind"] == kind
    ]


@pytest.mark.parametrize("version", RECORDED_VERSIONS)
def test_recorded_pools(version: str) -> None:
    rules = rules_of(version)
    families: set[str] = set()
    for case, theirs in recorded("pool", rules):
        if "stops" in theirs:
            assert our_pools(case, rules) == {"stops": True}
            continue
        assert our_pools(case, rules) == theirs
        families.add(case["family"] + ("+split" if theirs["window"] else ""))
    assert families == {"full", "chunked", "chunked+split", "window", "window+split", "mla", "recurrent"}


@pytest.mark.parametrize("version", RECORDED_VERSIONS)
def test_recorded_graph_state(version: str) -> None:
    rules = rules_of(version)
    cases = recorded("graph", rules)
    assert {case["backend"] for case, _ in cases} == {"fa3", "triton", "flashinfer", "trtllm_mha"}
    for case, theirs in cases:
        assert our_graph_bytes(case, rules) == theirs["bytes"]


@pytest.mark.parametrize("version", RECORDED_VERSIONS)
def test_recorded_defaults(version: str) -> None:
    rules = rules_of(version)
    cases = recorded("defaults", rules)
    assert len(cases) > 40
    for case, theirs in cases:
        mine = our_defaults(case, rules)
        assert mine["chunk"] == theirs["chunk"]
        if case["graphs"]:
            assert mine["graph_bs"] == theirs["graph_bs"]
        assert mine["fraction"] == pytest.approx(theirs["fraction"], abs=0.0011)


def test_recorded_graph_state_of_versions_between() -> None:
    """0.5.18 and 0.5.20, whose own backends answered on a CPU like the others'; their pools were not asked."""
    records: list[dict[str, Any]] = json.loads(
        GOLDEN.with_name("golden_graphs.json").read_text(encoding="utf-8")
    )
    versions = {record["version"] for record in records}
    assert versions == set(GRAPH_VERSIONS)
    for record in records:
        assert our_graph_bytes(record["case"], rules_of(record["version"])) == record["bytes"], record
