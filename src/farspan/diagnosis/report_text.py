"""A report for a person: the answer first, in one line."""

from __future__ import annotations

from collections.abc import Iterator

from farspan.diagnosis.diagnose import Report
from farspan.diagnosis.timeline import clock
from farspan.engines.logs.findings import Finding, Severity
from farspan.engines.logs.records import StartPhase
from farspan.engines.registry import find_served
from farspan.escape_terminal import printable
from farspan.sizes import GIB, format_bytes, format_seconds

_EVIDENCE = 220


def report_lines(report: Report) -> Iterator[str]:
    """The whole report, line by line."""
    yield answer(report)
    for finding in report.findings:
        yield ""
        yield from _finding(finding)
    if report.timeline:
        yield ""
        yield "Timeline"
        yield from _timeline(report)
    if report.in_plain_terms:
        yield ""
        yield "Now" if report.seen_at else "Capacity"
        for sentence in report.in_plain_terms:
            yield f"  {sentence}"
    if report.noise:
        yield ""
        yield "Noise"
        for noise in report.noise:
            times = f" ({noise.evidence.count} times)" if noise.evidence.count > 1 else ""
            if noise.harmless:
                yield f"  {noise.id}{times}: {noise.why}"
            else:
                text = printable(noise.evidence.text)[:_EVIDENCE]
                yield f"  line {noise.evidence.line}, not known{times}: {text}"


def answer(report: Report) -> str:
    """What happened, in one line."""
    who = f"{_name_server(report)} {report.version}".rstrip()
    state = _state(report)
    worst = report.findings[0] if report.findings else None
    if not report.recognised:
        lines = f"{report.lines:,} line{'' if report.lines == 1 else 's'}"
        return f"Nothing of vLLM, SGLang or the built-in engine in {lines}: is it the log of a server?"
    if worst is None or worst.severity is Severity.INFO:
        harmless = next((noise for noise in report.noise if noise.harmless), None)
        if harmless is not None and not report.engine and not report.timeline:
            return f"Nothing is wrong: {harmless.why}"
        return f"{who} {state}. Nothing is wrong."
    count = sum(finding.severity is worst.severity for finding in report.findings)
    more = f" ({count - 1} more)" if count > 1 else ""
    return f"{who} {state}: {printable(worst.cause).split('. ')[0].removesuffix('.')}.{more}"


def _name_server(report: Report) -> str:
    """How a sentence about the server begins."""
    engine = find_served(report.engine)
    if engine is None:
        return report.engine or "The server"
    return engine.name if engine.distributions else f"The {engine.title}"


def _state(report: Report) -> str:
    server_state = report.server_state
    if report.seen_at:
        return (
            f"at {report.seen_at} "
            f"{'answers' if server_state.ready is not None else 'does not answer as it should'}"
        )
    if any(finding.id == "port-in-use" for finding in report.findings):
        return "did not start"  # some servers say that they are ready before they bind
    if server_state.ready is not None:
        if server_state.died_itself:
            return "served and then died"
        if server_state.stopped is not None:
            return "served and was stopped"
        return "is ready"
    if server_state.stopped is not None and not server_state.failed:
        return "was stopped before it was ready"
    if server_state.failed or (report.worst is Severity.ERROR and not server_state.rates.lines):
        return "did not start"
    if server_state.phase is None or server_state.phase is StartPhase.READY:
        return "serves (the log does not show its start)"
    if not server_state.args and not server_state.version:
        return f"is in its start (a part of a log: {server_state.phase.value})"
    return f"has not finished starting (last seen: {server_state.phase.value})"


def _finding(finding: Finding) -> Iterator[str]:
    yield f"{finding.severity.value.upper()} {finding.id} ({finding.confidence.value})"
    yield f"  {printable(finding.cause)}"
    times = f", {finding.evidence.count} times" if finding.evidence.count > 1 else ""
    text = printable(finding.evidence.text).strip()
    if finding.evidence.line:
        cut = "..." if len(text) > _EVIDENCE else ""
        yield f"  line {finding.evidence.line}{times}: {text[:_EVIDENCE]}{cut}"
    elif text:
        yield f"  seen: {text[:_EVIDENCE]}"
    for step in finding.fix:
        yield f"  -> {printable(step)}"


def _timeline(report: Report) -> Iterator[str]:
    first = report.server_state.first_at
    for entry in report.timeline:
        since = "" if entry.at is None or first is None else f"+{entry.at - first:.0f} s"
        took = "" if not entry.seconds else format_seconds(entry.seconds)
        size = "" if entry.gib is None else _size(entry.gib)
        percent = "" if entry.done or entry.percent is None else f"{entry.percent:.0f} %"
        words = ", ".join(word for word in (took, size, percent) if word)
        yield f"  {clock(entry.at):<19} {since:>9}  {entry.phase.value:<12} {words}".rstrip()


def _size(gib: float) -> str:
    return f"{gib:.1f} GiB" if abs(gib) >= 1 or not gib else format_bytes(gib * GIB)
