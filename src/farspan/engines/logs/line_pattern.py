"""What a line of a log means: a pattern, and the events a line makes that matches it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from farspan.engines.logs.log_line import ParsedLine
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.records import EngineVersion, Event, Figure, Progress, StartPhase

MakeEvents = Callable[[ParsedLine, "re.Match[str]"], list[Event]]
NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_TEXT = 300
_DIGITS = 30


class LinePattern(NamedTuple):
    """One kind of line.

    Args:
        words: RE2 pattern every such line matches.
        pattern: What reads its figures, searched in the message; may be `words` itself.
        make: The events it makes of a match.
        is_message: Whether rules and the search for the first error read the line too.
    """

    words: str
    pattern: re.Pattern[str]
    make: MakeEvents
    is_message: bool = False


def line_pattern(words: str, make: MakeEvents, *, is_message: bool = False) -> LinePattern:
    """A line known by an RE2 pattern."""
    return LinePattern(words, compile_pattern(words), make, is_message)


def number(text: str) -> float:
    """A figure as engines print it, thousands apart or not; absurdly long ones are infinite."""
    digits = text.replace(",", "")
    return float(digits) if len(digits) <= _DIGITS else float("inf")


def phase(
    which: StartPhase, *, done: bool = False, engine: str = "", figure: str = "", seconds_figure: str = ""
) -> MakeEvents:
    """A line of a start's phase. Groups `percent`, `seconds` and `gib` are read where the pattern has them.

    Args:
        which: The phase.
        done: Whether the line ends it.
        engine: The engine only whose logs have such a line.
        figure: Name of the figure that `gib` is.
        seconds_figure: Name of the figure that `seconds` is.
    """

    def make(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
        groups = match.groupdict()
        read = {
            name: number(groups[name])
            for name in ("percent", "seconds", "gib")
            if groups.get(name) is not None
        }
        events: list[Event] = [EngineVersion(parsed.where, engine)] if engine else []
        events.append(Progress(parsed.where, which, done=done, text=parsed.text.strip()[:_TEXT], **read))
        if figure and "gib" in read:
            events.append(Figure(parsed.where, figure, read["gib"]))
        if seconds_figure and "seconds" in read:
            events.append(Figure(parsed.where, seconds_figure, read["seconds"]))
        return events

    return make


def figures(which: StartPhase, *, done: bool, engine: str) -> MakeEvents:
    """A line of figures: every named group is one."""

    def make(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
        events: list[Event] = [EngineVersion(parsed.where, engine)]
        events.append(Progress(parsed.where, which, done=done, text=parsed.text.strip()[:_TEXT]))
        for name, text in match.groupdict().items():
            if text is not None:
                events.append(Figure(parsed.where, name, number(text)))
        return events

    return make


def ending(which: StartPhase) -> MakeEvents:
    """A line that tells of the end; to be used with `is_message`."""

    def make(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:  # noqa: ARG001
        done = which is StartPhase.DIED
        text = parsed.text.partition("Traceback (most recent call last)")[0].strip(" :")
        return [Progress(parsed.where, which, done=done, text=text[:_TEXT])]

    return make


def nothing(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:  # noqa: ARG001
    """A line that says nothing, such as one that quotes what a client sent."""
    return []
