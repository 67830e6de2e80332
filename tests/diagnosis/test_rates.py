"""True prefill rates from timestamps, against servers that were measured."""

from __future__ import annotations

import pytest

from farspan.diagnosis.examine import examine
from farspan.engines.logs.rates import Prefill

LINE = (
    "(APIServer pid=1) INFO 12-02 {} [loggers.py:236] Engine 000: Avg prompt throughput: {} tokens/s, Avg generation "
    "throughput: {} tokens/s, Running: {} reqs, Waiting: 0 reqs, GPU KV cache usage: 1.0%, "
    "Prefix cache hit rate: 0.0%\n"
)


def _clock(second: float) -> str:
    return f"{10 + int(second) // 3600:02}:{int(second) % 3600 // 60:02}:{int(second) % 60:02}"


def _vllm(prompt: int, e2e_s: float, generation: float) -> Prefill:
    """The lines vLLM logs for one request that begins 4 s before a line: two of them, silence, the last."""
    end = 10 * (e2e_s // 10 + 1)
    lines = (
        LINE.format(_clock(6), "0.0", "0.0", 1)
        + LINE.format(_clock(16), "0.0", "0.0", 1)
        + LINE.format(_clock(end), f"{prompt / 10:.1f}", generation, 0)
    )
    report = examine([lines.encode()])
    rates = report.server_state.rates
    rates.close(3)
    assert rates.longest is not None
    return rates.longest


@pytest.mark.parametrize(
    ("prompt", "e2e_s", "generation"),
    [(2_845_646, 334.91, 20.0), (4_908_091, 957.07, 15.6), (9_811_859, 2964.4, 9.3)],
)
def test_requests_that_were_measured(prompt: int, e2e_s: float, generation: float) -> None:
    """Observed on vLLM 0.12.0, where the log said 284,575.7, 490,814.1 and 981,184.7 tokens/s."""
    prefill = _vllm(prompt, e2e_s, generation)
    low, high = prefill.range_tps
    assert prefill.tokens == pytest.approx(prompt, rel=1e-4)
    assert low <= prompt / e2e_s <= high
    assert prefill.tps == pytest.approx(prompt / e2e_s, rel=0.05)
    assert prefill.logged_tps == pytest.approx(prompt / 10, rel=1e-4)


def test_two_requests_do_not_run_into_one() -> None:
    lines = ""
    for start in (0, 3000):
        for second, tps, running in ((10, 0.0, 1), (20, 0.0, 1), (110, 10_000.0, 1), (120, 0.0, 0)):
            lines += LINE.format(_clock(start + second), tps, 0.0, running)
    rates = examine([lines.encode()]).server_state.rates
    rates.close(8)
    assert [prefill.tokens for prefill in rates.prefills] == [100_000, 100_000]
    assert all(prefill.seconds == pytest.approx(100, abs=10) for prefill in rates.prefills)


def test_sglang_by_its_chunks() -> None:
    """8,192 tokens every 4 s; the first chunk's own time is not in the log."""
    line = (
        "[2026-01-05 09:{:02}:{:02} TP0] Prefill batch, #new-seq: 1, #new-token: 8192, #cached-token: 0, "
        "token usage: 0.55, "
        "#running-req: 0, #queue-req: 0, \n"
    )
    lines = "".join(line.format(4 * n // 60, 4 * n % 60) for n in range(100))
    rates = examine([lines.encode()]).server_state.rates
    rates.close(100)
    assert rates.longest is not None
    assert rates.longest.tps == pytest.approx(2048)


def test_the_finding_says_both_rates() -> None:
    lines = (
        LINE.format(_clock(6), "0.0", "0.0", 1)
        + LINE.format(_clock(16), "0.0", "0.0", 1)
        + LINE.format(_clock(2970), "981184.7", 9.3, 0)
    )
    (finding,) = examine([lines.encode()]).findings
    assert finding.id == "throughput-misread"
    assert "981,184.7 tokens/s" in finding.cause
    assert "9,811,847 tokens in 2,964 s: 3,310 tokens/s" in finding.cause
