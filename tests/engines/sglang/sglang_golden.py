"""Questions and SGLang's own answers, kept so that every version can be checked without any SGLang at hand.

To record them again, unpack each version (`pip install --no-deps --target FOLDER/.sglang-VERSION
sglang==VERSION`) and run

    FARSPAN_SGLANG_SOURCE=FOLDER python tests/engines/sglang/sglang_golden.py

The answers come from the package's own pool configurators, graph state and defaults (oracle.py), on a CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from sglang_cases import default_cases, graph_cases, pool_cases
from sglang_process import Oracle

GOLDEN = Path(__file__).with_name("golden_answers.json")
GRAPHS_FILE = Path(__file__).with_name("golden_graphs.json")
# Versions whose backends alone answer on a CPU: graph state, and not every case of it.
GRAPH_VERSIONS = ("0.5.18", "0.5.20")
RECORDED_VERSIONS = ("0.5.6.post2", "0.5.16", "0.5.23")
POOLS, GRAPHS, DEFAULTS = 150, 60, 60


def collect(strategy: SearchStrategy[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` cases of a strategy, the same every time, from all along its examples."""
    found: list[dict[str, Any]] = []

    @given(strategy)
    @settings(
        max_examples=4 * count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def gather(case: dict[str, Any]) -> None:
        found.append(case)

    gather()
    distinct = list({json.dumps(case): case for case in found}.values())
    return distinct[:: max(1, len(distinct) // count)][:count]


def record_graphs(cases: list[dict[str, Any]]) -> None:
    """Ask the versions between for the graph state of the cases that their backends answer."""
    found = []
    for version in GRAPH_VERSIONS:
        oracle = Oracle(version)
        for case in cases:
            try:
                answer = oracle.ask(case)
            except AssertionError:  # the oracle says what it could not run
                continue
            found.append({"version": version, "case": case, "bytes": answer["bytes"]})
        oracle.close()
    GRAPHS_FILE.write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    """Ask every version every question and write the answers."""
    cases = [
        *collect(pool_cases(), POOLS),
        *collect(graph_cases(), GRAPHS),
        *collect(default_cases(), DEFAULTS),
    ]
    record_graphs([case for case in cases if case["kind"] == "graph"])
    records: list[dict[str, Any]] = [{"case": case, "answers": {}} for case in cases]
    for version in RECORDED_VERSIONS:
        oracle = Oracle(version)
        for record in records:
            record["answers"][version] = oracle.ask(record["case"])
        oracle.close()
    text = ",\n".join(json.dumps(record, separators=(",", ":")) for record in records)
    GOLDEN.write_text(f"[\n{text}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
