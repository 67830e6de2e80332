from __future__ import annotations

import re

from farspan.engines.logs.line_pattern import LinePattern, line_pattern
from farspan.engines.logs.log_line import ParsedLine
from farspan.engines.logs.records import Arguments, EngineVersion, Event, Progress, StartPhase


def _ready(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    return [
        EngineVersion(parsed.where, "toy", match["version"]),
        Arguments(parsed.where, "toy", {"ctx": int(match["context"])}),
        Progress(parsed.where, StartPhase.READY, done=True, text="answers requests"),
    ]


LINES: tuple[LinePattern, ...] = (
    line_pattern(r"toy (?P<version>\d+\.\d+\.\d+) answers, ctx (?P<context>\d+)", _ready),
)
