"""What no rule knows: the first error of the log, and where to look when the log does not hold it."""

from __future__ import annotations

from farspan.diagnosis.search_words import words_of
from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.rule import Diagnosis, StateRule
from farspan.engines.logs.server_state import ServerState
from farspan.engines.logs.tracebacks import Traceback

_SHOWN = 300


def _first_error(server_state: ServerState) -> Diagnosis | None:
    failure = server_state.failure
    if failure is not None and failure.is_wrapper:
        return _elsewhere(failure, server_state)
    if failure is None and server_state.died_itself:
        if server_state.first_error is None:
            return None
        return Diagnosis(
            "The server ended. This is its first error; what follows are its consequences.",
            ("search the engine's issues for the words of that line",),
            Confidence.LIKELY,
            evidence=server_state.first_error,
        )
    error, went_on = failure, False
    if error is None and server_state.ready is not None and server_state.stopped is None:
        error = server_state.tracebacks.first(server_state.ready.line, server_state.explained)
        went_on = True
    if error is None or (went_on and error.is_wrapper):
        return None
    where = f" in {error.place}" if error.place else ""
    process = f", in process {error.where.process}" if error.where.process else ""
    if went_on:
        meaning = "a request or a background task failed with it; the server went on"
    elif server_state.ready is None:
        meaning = "the first error of the start, which the others only pass on"
    else:
        meaning = "the first error, which the others only pass on"
    return Diagnosis(
        f"{error.short[:_SHOWN]}{where}{process}: {meaning}.",
        (
            f"no rule knows this one: search the engine's issues for {words_of(error)}",
            f"the lines above {error.evidence.line} show the way there ({_versions(server_state)})",
            "`farspan doctor LOG --bundle report.md` writes a report to paste, without secrets, hosts, "
            "paths and prompts",
        ),
        Confidence.LIKELY,
        severity=Severity.WARNING if went_on else None,
        evidence=error.evidence,
    )


def _elsewhere(wrapper: Traceback, server_state: ServerState) -> Diagnosis:
    """The log has only lines that pass on an error which it does not hold: say who holds it."""
    if "CalledProcessError" in wrapper.type:
        holder = "what that command printed is not in this log: run it by hand, in the same container"
    elif "Ray" in wrapper.type or server_state.text("distributed_executor_backend") == "ray":
        holder = "Ray keeps each worker's output: /tmp/ray/session_latest/logs/worker-*.err on its node"
    else:
        holder = (
            "the failed process's own traceback is on its standard error: capture both streams (2>&1), "
            "of every node; "
            "VLLM_LOGGING_LEVEL=DEBUG (vLLM) or --log-level debug (SGLang) print more"
        )
    return Diagnosis(
        f"The log does not hold the cause: {wrapper.short[:_SHOWN]} only passes on that another "
        f"process failed.",
        (holder, "`dmesg -T` on that host shows processes the kernel killed, and GPU errors (Xid)"),
        Confidence.LIKELY,
        evidence=wrapper.evidence,
    )


def _versions(server_state: ServerState) -> str:
    return ", ".join(f"{name} {version}" for name, version in server_state.versions().items())


FIRST_ERROR = StateRule(
    id="first-error",
    means="A failure nobody has described yet: its first error, not its last.",
    severity=Severity.ERROR,
    look=_first_error,
    only_unexplained=True,
)

RULES = (FIRST_ERROR,)
