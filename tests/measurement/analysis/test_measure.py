from __future__ import annotations

from dataclasses import replace

import pytest

from farspan.cli.live import describe_result
from farspan.measurement.analysis.measure import measure
from farspan.measurement.analysis.summary import list_points
from farspan.measurement.http.client import Exchange
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.wire import Usage
from farspan.measurement.runs.job import Job
from farspan.measurement.runs.result import Gaps, summarise_gaps

JOB = Job(context=1000, depth=0.5, repeat=0, seed=1, output_tokens=4)


def exchange(
    *,
    usage: Usage | None = None,
    times: tuple[float, ...] = (2.0, 2.1, 2.2, 2.5),
    status: Status = Status.OK,
    error: str = "",
    finish: str | None = "length",
    streamed: bool = True,
) -> Exchange:
    return Exchange(
        status=status,
        error=error,
        http_status=200,
        started_at=1_700_000_000.0,
        body_bytes=5000,
        bytes_sent_s=0.01,
        token_times_s=times,
        ended_s=3.0,
        text="a b c d",
        finish_reason=finish,
        usage=usage,
        streamed=streamed,
    )


def test_a_cold_answer_of_the_right_length() -> None:
    result = measure(JOB, exchange(usage=Usage(1000, 0, 4)), answer="a b", score=1.0)
    assert result.status is Status.OK
    assert result.labels == ()
    assert result.ttft_s == 2.0
    assert result.prefill_tokens_per_s == 500.0
    assert result.e2e_s == 2.5
    assert result.itl_s is not None
    assert result.itl_s.mean == pytest.approx(0.5 / 3)
    assert result.itl_s.p50 == pytest.approx(0.1)
    assert result.itl_s.p99 == pytest.approx(0.296)
    assert result.started_at == "2023-11-14T22:13:20.000+00:00"
    assert result.job == JOB


@pytest.mark.parametrize(
    ("usage", "labels"),
    [
        (Usage(1000, 256, 4), {"warm"}),
        (Usage(1000, None, 4), {"cached-unknown"}),
        (Usage(999, 0, 4), {"short"}),
        (Usage(1001, 0, 4), {"long"}),
        (Usage(1000, 0, 3), {"truncated", "itl-per-event"}),
        (Usage(1000, 0, 8), {"itl-per-event"}),
        (None, {"cached-unknown", "count-unknown"}),
    ],
)
def test_labels_carry_their_evidence(usage: Usage | None, labels: set[str]) -> None:
    result = measure(JOB, exchange(usage=usage), answer="a", score=1.0)
    assert set(result.labels) == labels == set(result.evidence)
    assert all(result.evidence.values())


def test_a_warm_prompt_has_no_prefill_rate() -> None:
    result = measure(JOB, exchange(usage=Usage(1000, 256, 4)), answer="a", score=1.0)
    assert result.prefill_tokens_per_s is None
    assert result.evidence["warm"] == "256 of 1000 prompt tokens were cached"


def test_a_wrong_count_is_worse_than_a_wrong_answer() -> None:
    result = measure(JOB, exchange(usage=Usage(990, 0, 4)), answer="a", score=0.0)
    assert result.status is Status.WRONG_LENGTH
    assert "990" in result.error
    assert result.score == 0.0
    wrong = measure(JOB, exchange(usage=Usage(1000, 0, 4)), answer="a", score=0.5)
    assert wrong.status is Status.WRONG_ANSWER
    assert "50%" in wrong.error


def test_where_nothing_was_planted_nothing_is_recalled() -> None:
    """Random prompts and traces: any words are an answer, and say nothing of what the server saw."""
    free = measure(JOB, exchange(usage=Usage(1000, 0, 4)), answer="", score=1.0)
    assert (free.status, free.score, free.recall) == (Status.OK, None, None)
    silent = measure(JOB, exchange(usage=Usage(1000, 0, 4)), answer="", score=0.0)
    assert (silent.status, silent.error) == (Status.WRONG_ANSWER, "the reply has no words")
    [point] = list_points([free])
    assert point.recall is None
    # Runs of farspan before it knew better hold a score of 1.
    assert "recall" not in describe_result(replace(free, score=1.0))
    assert list_points([replace(free, score=1.0)])[0].recall is None


def test_an_early_stop_is_labelled_with_its_reason() -> None:
    short = exchange(usage=Usage(1000, 0, 2), times=(1.0, 1.1), finish="stop")
    assert measure(JOB, short, answer="a", score=1.0).evidence["truncated"] == "2 of 4 output tokens (stop)"


def test_a_failed_exchange_keeps_what_was_seen_and_scores_nothing() -> None:
    cut = exchange(status=Status.CUT, error="gone", times=(2.0,), finish=None)
    result = measure(JOB, cut, answer="a", score=1.0)
    assert (result.status, result.error) == (Status.CUT, "gone")
    assert result.score is None
    assert result.ttft_s == 2.0
    assert result.e2e_s == 3.0
    assert result.itl_s is None
    assert result.labels == ()


def test_an_answer_in_one_piece_has_no_ttft() -> None:
    result = measure(JOB, exchange(usage=Usage(1000, 0, 4), streamed=False), answer="a", score=1.0)
    assert result.ttft_s is None
    assert result.prefill_tokens_per_s is None
    assert result.labels == ("not-streamed",)
    assert result.e2e_s == 3.0


def test_one_arrival_has_no_gap() -> None:
    assert summarise_gaps(()) is None
    assert summarise_gaps((1.0,)) is None
    assert summarise_gaps((1.0, 1.5)) == Gaps(0.5, 0.5, 0.5)
