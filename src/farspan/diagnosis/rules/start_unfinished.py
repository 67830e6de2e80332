"""The log ends in the middle of a start, without an error."""

from __future__ import annotations

from farspan.diagnosis.findings import Confidence, Evidence, Severity
from farspan.diagnosis.records import StartPhase
from farspan.diagnosis.rule import Diagnosis, StateRule
from farspan.diagnosis.server_state import ServerState


def _look(situation: ServerState) -> Diagnosis | None:
    if (
        situation.started is None
        or situation.phase in (None, StartPhase.READY)
        or situation.ready is not None
    ):
        return None
    if situation.died is not None or situation.stopped is not None or situation.tracebacks.raised:
        return None
    if situation.rates.lines or situation.door.answered:
        return None
    during = situation.phase.value if situation.phase is not None else "start"
    return Diagnosis(
        f"The log ends during the start ({during}) with no error: the server is still starting, or it "
        f"was killed from "
        "outside (signal 9 leaves no line).",
        (
            "if the process is gone: `dmesg | grep -i kill`, `docker inspect` (OOMKilled, exit code "
            "137), `kubectl describe pod`",
            "a startup probe that is too short kills a server that only loads; `farspan plan` says how "
            "long loading takes",
        ),
        Confidence.LIKELY,
        evidence=Evidence(situation.last.line, f"the last line, during {during}"),
    )


RULE = StateRule(id="start-unfinished", severity=Severity.WARNING, look=_look, only_unexplained=True)
