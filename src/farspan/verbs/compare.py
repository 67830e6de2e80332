"""Compare one run with another, measure by measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from farspan.measurement.analysis.comparison import (
    RunComparison,
    compare_runs,
    find_comparison_breaches,
    parse_comparison_condition,
)
from farspan.measurement.analysis.plan_beside_run import find_plan, read_ttft_plan
from farspan.measurement.runs.run_folder import load_run


def compare(
    a: str | Path, b: str | Path, *, plan: str | Path | None = None, fail_if: Sequence[str] = ()
) -> RunComparison:
    """Compare run folder B with run folder A: how many times as large B is as A, with confidence intervals.

    Args:
        a, b: Run folders.
        plan: A file of `farspan plan --json`, for conditions; the plan B was started with when None.
        fail_if: Conditions such as `ratio.ttft.low > 1.05`; `breaches` has those that hold.

    Raises:
        InputError: A folder is no run, they share no point, or a condition is wrong.
    """
    conditions = [parse_comparison_condition(text) for text in fail_if]
    run_a, run_b = load_run(Path(a)), load_run(Path(b))
    comparison = compare_runs(run_a, run_b)
    engine = run_b.info.starts[-1].server.owned_by
    planned = read_ttft_plan(Path(plan), engine) if plan else find_plan(Path(b), engine)
    breaches = find_comparison_breaches(conditions, run_a, run_b, comparison, planned)
    return RunComparison(Path(a), Path(b), comparison, breaches)
