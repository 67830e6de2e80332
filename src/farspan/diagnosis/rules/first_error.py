"""A failure nobody has described yet: its first error, not its last."""

from __future__ import annotations

from farspan.diagnosis.findings import Confidence, Evidence, Severity
from farspan.diagnosis.rule import Diagnosis, StateRule
from farspan.diagnosis.server_state import ServerState


def _look(situation: ServerState) -> Diagnosis | None:
    died = situation.died is not None and situation.died_itself
    after = situation.ready.line if situation.ready is not None else 0
    raised, explained = situation.tracebacks, situation.explained
    first = raised.first(after, explained) or (raised.first(0, explained) if died else None)
    if first is not None and first.is_wrapper and not died:
        return None
    if first is None:
        if not died or situation.first_error is None:
            return None
        evidence = situation.first_error
        return Diagnosis(
            "The server ended. This is its first error; what follows are its consequences.",
            ("search the engine's issues for the words of that line",),
            Confidence.LIKELY,
            evidence=evidence,
        )
    where = f" in {first.place}" if first.place else ""
    process = f", in process {first.where.process}" if first.where.process else ""
    short = f"{first.type}: {first.text}" if first.text else first.type
    meaning = (
        "the first error, which the others only pass on"
        if died
        else "nobody caught it, and the server went on"
    )
    cause = f"{short[:300]}{where}{process}: {meaning}."
    return Diagnosis(
        cause,
        (
            "no rule knows this one: search the engine's issues for the words of that line",
            f"the traceback above line {first.evidence.line} shows the way there",
        ),
        Confidence.LIKELY,
        severity=None if died or situation.ready is None else Severity.WARNING,
        evidence=Evidence(first.evidence.line, first.evidence.text),
    )


RULE = StateRule(id="first-error", severity=Severity.ERROR, look=_look, only_unexplained=True)
