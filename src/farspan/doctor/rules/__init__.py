"""The failures the doctor knows, one module each."""

from __future__ import annotations

from farspan.doctor.rule import Rule, StateRule

LINE_RULES: tuple[Rule, ...] = ()
STATE_RULES: tuple[StateRule, ...] = ()
NEEDLES: tuple[bytes, ...] = tuple(needle.encode() for rule in LINE_RULES for needle in rule.needles)
