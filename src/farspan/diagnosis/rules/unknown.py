"""What no rule knows: the first error of the log."""

from __future__ import annotations

from farspan.engines.logs.findings import Confidence, Evidence, Severity
from farspan.engines.logs.rule import Diagnosis, StateRule
from farspan.engines.logs.server_state import ServerState


def _first_error(server_state: ServerState) -> Diagnosis | None:
    died = server_state.died is not None and server_state.died_itself
    after = server_state.ready.line if server_state.ready is not None else 0
    raised, explained = server_state.tracebacks, server_state.explained
    first = raised.first(after, explained) or (raised.first(0, explained) if died else None)
    if first is not None and first.is_wrapper and not died:
        return None
    if first is None:
        if not died or server_state.first_error is None:
            return None
        evidence = server_state.first_error
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
        severity=None if died or server_state.ready is None else Severity.WARNING,
        evidence=Evidence(first.evidence.line, first.evidence.text),
    )


FIRST_ERROR = StateRule(
    means="A failure nobody has described yet: its first error, not its last.",
    id="first-error",
    severity=Severity.ERROR,
    look=_first_error,
    only_unexplained=True,
)

RULES = (FIRST_ERROR,)
