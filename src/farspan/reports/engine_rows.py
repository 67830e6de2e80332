"""Engines side by side as a proof leaves them: how each started, what memory it got, what it proved, or why not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine of a proof; figures in words, empty where they are not known.

    Args:
        name: Its name in the proof.
        engine: The engine and its version.
        outcome: What came of it, in a few words.
        good: Whether it started and answered everything right.
        start: How long its start took, beside the plan.
        memory: What memory it got, beside the plan, one figure each.
        findings: What the doctor found in its log, one sentence each.
        fixes: What to change, one step each.
        flags: What its server was started with.
    """

    name: str
    engine: str
    outcome: str
    good: bool
    start: str = ""
    memory: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()
    flags: str = ""
