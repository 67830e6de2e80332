"""What a rule is: the words a failure leaves in a log, and what to say about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from farspan.engines.logs.findings import Confidence, Evidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.records import LogMessage
from farspan.engines.logs.server_state import ServerState


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
    """What a rule says. `evidence` and `severity` replace the line's and the rule's."""

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
        means: The failure in one sentence, for the page that lists them.
        severity: Of its finding.
        pattern: What the line must match.
        explain: Says what happened, or None where the rest of the log speaks against it. It is asked once the
            whole log is read, for each line that matched (the first 32), until it answers.
        sources: Where the failure is known from.
        general: Whether it only speaks where no exact rule has found an error: out of memory in general, against
            out of memory in the one table that is too large.
    """

    id: str
    means: str
    severity: Severity
    pattern: re.Pattern[str]
    explain: Explain
    sources: tuple[str, ...]
    general: bool = False


@dataclass(frozen=True, slots=True)
class StateRule:
    """One failure no single line shows: found by looking at everything once the log is read.

    Args:
        id: Stable name of its finding.
        means: The failure in one sentence.
        severity: Of its finding.
        look: Says what happened, or None.
        sources: Where the failure is known from.
        only_unexplained: Ask only when no rule has found an error.
    """

    id: str
    means: str
    severity: Severity
    look: Look
    sources: tuple[str, ...] = ()
    only_unexplained: bool = False


def known(
    id_: str,
    means: str,
    pattern: str,
    cause: str,
    *fix: str,
    sources: tuple[str, ...],
    severity: Severity = Severity.ERROR,
    confidence: Confidence = Confidence.CERTAIN,
    general: bool = False,
) -> Rule:
    """A rule that needs nothing from the rest of the log: words, cause and fix."""
    said = Diagnosis(cause, fix, confidence)

    def explain(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
        return said

    return Rule(id_, means, severity, compile_pattern(pattern), explain, sources, general)
