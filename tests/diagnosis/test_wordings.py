"""Each failure in the words of several versions and engines, and lines with the same words that are none."""

from __future__ import annotations

import pytest

from failing_logs import SGLANG, VLLM_V1, before_ready, failed_start, served
from farspan.diagnosis.diagnose import Report
from farspan.diagnosis.examine import examine
from farspan.diagnosis.report_text import answer
from farspan.engines.logs.findings import Severity
from wordings import LOOK_ALIKES, WORDINGS, Wording

CASES = [(id_, number) for id_, wordings in WORDINGS.items() for number in range(len(wordings))]


def _report(wording: Wording) -> Report:
    return examine([failed_start(wording.style, wording.error, frames=wording.frames, args=wording.args)])


@pytest.mark.parametrize(("id_", "number"), CASES)
def test_the_cause_is_found_whatever_the_version(id_: str, number: int) -> None:
    wording = WORDINGS[id_][number]
    report = _report(wording)
    errors = [finding.id for finding in report.findings if finding.severity is Severity.ERROR]
    assert errors == [id_]
    assert "did not start" in answer(report)
    said = " ".join((report.findings[0].cause, *report.findings[0].fix))
    for words in wording.says:
        assert words in said


@pytest.mark.parametrize(("id_", "number"), CASES)
def test_a_finding_reads_like_one(id_: str, number: int) -> None:
    (finding, *_) = _report(WORDINGS[id_][number]).findings
    assert finding.cause.endswith(".")
    assert finding.cause[0].isupper() or finding.cause[0] in "-_"
    assert all(step and not step.endswith(".") and "  " not in step for step in finding.fix)
    assert finding.sources


@pytest.mark.parametrize("id_", sorted(LOOK_ALIKES))
def test_the_same_words_on_a_server_that_serves(id_: str) -> None:
    style = SGLANG if LOOK_ALIKES[id_][0].startswith("[2026") else VLLM_V1
    for log in (before_ready(style, *LOOK_ALIKES[id_]), served(style, *LOOK_ALIKES[id_])):
        report = examine([log])
        assert not [finding for finding in report.findings if finding.severity is Severity.ERROR]
        assert "did not start" not in answer(report)


@pytest.mark.parametrize(("id_", "number"), CASES)
def test_what_a_start_survived_is_no_failure(id_: str, number: int) -> None:
    """The words of the failure as a warning before the server is ready."""
    wording = WORDINGS[id_][number]
    style = SGLANG if wording.style == SGLANG else VLLM_V1
    prefix = "[2026-05-01 10:01:00] WARNING " if style == SGLANG else "WARNING 05-01 10:00:30 [x.py:1] "
    report = examine([before_ready(style, prefix + wording.error.split("\n")[0])])
    assert not [finding for finding in report.findings if finding.severity is Severity.ERROR]
    assert report.ready
