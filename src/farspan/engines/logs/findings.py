"""What the doctor says: findings, and warnings that are only noise."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Confidence(StrEnum):
    """How sure a finding is: the log says it outright, it follows from several lines, or it is likely."""

    CERTAIN = "certain"
    STRONG = "strong"
    LIKELY = "likely"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The line a finding rests on.

    Args:
        line: Its number, from 1.
        text: The line, colours gone, cut after 1,000 characters.
        count: How many lines like it the log has.
    """

    line: int
    text: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that went wrong, or will.

    Args:
        id: Stable name, such as `vllm-context-too-long`.
        severity: Whether the server fails over it.
        cause: What happened, in plain words, with the numbers.
        evidence: The line that shows it.
        fix: What to do, one step an item; flags are ready to paste.
        confidence: How sure.
        sources: Where the failure is known from: an issue as owner/name#number, or an engine's source file.
    """

    id: str
    severity: Severity
    cause: str
    evidence: Evidence
    fix: tuple[str, ...]
    confidence: Confidence
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Noise:
    """A warning that needs no action, or one nobody knows.

    Args:
        id: Stable name; `unrecognised` for a warning the doctor does not know.
        why: Why it does not matter.
        evidence: The first such line, with the count of them.
        harmless: True when it is known to be harmless, False when it is not known at all.
    """

    id: str
    why: str
    evidence: Evidence
    harmless: bool = True
