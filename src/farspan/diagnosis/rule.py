"""What a rule is: the words a failure leaves in a log, and what to say about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from farspan.diagnosis.findings import Confidence, Evidence, Severity
from farspan.diagnosis.records import LogMessage
from farspan.diagnosis.server_state import ServerState


@dataclass(frozen=True, slots=True)
class RuleMatch:
    """A line a rule's pattern matched.

    Args:
        message: The line.
        match: The match.
        frames: (file, function) of the traceback the line ends, outermost first; empty outside of one.
        was_ready: Whether the server had answered requests by then.
        count: How many such lines there were.
    """

    message: LogMessage
    match: re.Match[str]
    frames: tuple[tuple[str, str], ...]
    was_ready: bool
    count: int = 1

    def raised_in(self, *names: str) -> bool:
        """Whether the traceback goes through one of these files or functions."""
        return any(name in file or name == function for file, function in self.frames for name in names)

    @property
    def evidence(self) -> Evidence:
        """The line as evidence."""
        return Evidence(self.message.where.line, self.message.raw, self.count)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a rule says. `evidence` and `severity` replace the sighting's line and the rule's severity."""

    cause: str
    fix: tuple[str, ...]
    confidence: Confidence = Confidence.CERTAIN
    severity: Severity | None = None
    evidence: Evidence | None = None


Explain = Callable[[RuleMatch, ServerState], Diagnosis | None]
Look = Callable[[ServerState], Diagnosis | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """One failure, found by a line.

    Args:
        id: Stable name of its finding.
        severity: Of its finding.
        needles: Bytes one of which a matching line contains, four or more each.
        pattern: What the line must match.
        explain: Says what happened, or None where the rest of the log speaks against it. It is asked once the
            whole log is read, for each line that matched (the first 32), until it answers.
        sources: Where the failure is known from.
    """

    id: str
    severity: Severity
    needles: tuple[str, ...]
    pattern: re.Pattern[str]
    explain: Explain
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StateRule:
    """One failure no single line shows: found by looking at everything once the log is read.

    Args:
        only_unexplained: Ask only when no rule has found an error.
    """

    id: str
    severity: Severity
    look: Look
    sources: tuple[str, ...] = ()
    only_unexplained: bool = False


def diagnose(cause: str, *fix: str, confidence: Confidence = Confidence.CERTAIN) -> Explain:
    """An explanation that needs nothing from the log."""
    said = Diagnosis(cause, fix, confidence)

    def explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis:  # noqa: ARG001
        return said

    return explain
