"""Which line of the built-in engine's log means what: those of `farspan.builtin.start_log`."""

from __future__ import annotations

import re

from farspan.engines.logs.line_pattern import NUMBER, LinePattern, line_pattern, number, phase
from farspan.engines.logs.log_line import ParsedLine
from farspan.engines.logs.records import EngineVersion, Event, Figure, Progress, StartPhase

_PREFIX = "farspan built-in engine: "


def _ready(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    return [
        EngineVersion(parsed.where, "builtin"),
        Figure(parsed.where, "max_model_len", number(match["length"])),
        Progress(parsed.where, StartPhase.READY, done=True, text="answers requests"),
    ]


LINES: tuple[LinePattern, ...] = (
    line_pattern(
        rf"{_PREFIX}torch \S+ loaded in (?P<seconds>{NUMBER}) s",
        phase(StartPhase.ENGINE, done=True, engine="builtin"),
    ),
    line_pattern(
        rf"{_PREFIX}weights of (?P<gib>{NUMBER}) GiB loaded in (?P<seconds>{NUMBER}) s",
        phase(StartPhase.WEIGHTS, done=True, engine="builtin", figure="weights_gib"),
    ),
    line_pattern(rf"{_PREFIX}stopped$", phase(StartPhase.SHUTDOWN, done=True, engine="builtin")),
    line_pattern(rf"{_PREFIX}.*max_model_len (?P<length>\d{{1,12}}),", _ready),
)
