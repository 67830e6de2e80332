"""Lines of every engine: uvicorn's, Hugging Face's, tqdm's, elastic memory's."""

from __future__ import annotations

import re

from farspan.engines.logs.line_pattern import LinePattern, line_pattern, phase
from farspan.engines.logs.log_line import ParsedLine
from farspan.engines.logs.records import Access, EngineVersion, Event, Figure, Progress, StartPhase
from farspan.sizes import GIB

_ACCESS = re.compile(
    r"\A\s{0,8}+(?P<address>[\w.:%\[\]-]{2,60}?):\d{1,5} - \"(?P<request>[^\"]{1,2000}+)\" "
    r"(?P<status>[1-5]\d\d)\b"
)


def _access(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    return [Access(parsed.where, match["address"], match["request"], int(match["status"]))]


def _application_ready(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:  # noqa: ARG001
    """uvicorn's line: vLLM answers from here on; SGLang still warms up (it says later that it is fired up)."""
    if parsed.style == "sglang":
        return [EngineVersion(parsed.where, "sglang")]
    return [Progress(parsed.where, StartPhase.READY, done=True, text="answers requests")]


def _elastic_memory(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    """What elastic memory holds, whichever engine it is in (`farspan.kv.memory.memory_log`); rules read it too."""
    return [
        Figure(parsed.where, f"elastic_{name}_gib", int(text) / GIB)
        for name, text in match.groupdict().items()
        if text is not None
    ]


COMMON_LINES: tuple[LinePattern, ...] = (
    LinePattern(r'\d - "[^"]+" [1-5]\d\d\b', _ACCESS, _access),
    line_pattern(r"Loading \S+ checkpoint shards:\s+(?P<percent>\d+)%", phase(StartPhase.WEIGHTS)),
    line_pattern(r"loading shards:\s+(?P<percent>\d+)%", phase(StartPhase.WEIGHTS)),
    # huggingface_hub's bar: the files are not on this machine yet.
    line_pattern(r"Fetching \d{1,6} files:\s+(?P<percent>\d+)%", phase(StartPhase.WEIGHTS)),
    line_pattern(r"Capturing CUDA graphs.*?(?P<percent>\d+)%\|", phase(StartPhase.GRAPHS)),
    line_pattern(r"Capturing batches.*?(?P<percent>\d+)%\|", phase(StartPhase.GRAPHS)),
    line_pattern(
        r"farspan memory: .{1,40}: held=(?P<held>\d{1,17}) .*?allowed=(?P<allowed>\d{1,17})"
        r"(?:.*? neighbours_held=(?P<neighbours>\d{1,17}))?",
        _elastic_memory,
        is_message=True,
    ),
    line_pattern(r"Application startup complete", _application_ready),
    line_pattern(
        r"Application shutdown complete|Finished server process \[", phase(StartPhase.SHUTDOWN, done=True)
    ),
)
