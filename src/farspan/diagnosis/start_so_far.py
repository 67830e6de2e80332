"""A start that a log breaks off in: how long it has been, what it waits for, how long is usual."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from farspan.diagnosis.timeline import Entry
from farspan.engines.engine import StartSeconds
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.records import STARTUP, StartPhase
from farspan.engines.logs.server_state import ServerState
from farspan.engines.registry import find_served
from farspan.sizes import format_seconds

_TIME = r"(?:\d+:)?\d{1,3}:\d\d"
_BAR = compile_pattern(rf"(?P<done>\d{{1,7}})/(?P<total>\d{{1,7}}) \[(?P<took>{_TIME})<(?P<left>{_TIME}|\?)")

_DOES = {
    StartPhase.CONFIG: "reading its arguments and the model's config",
    StartPhase.ENGINE: "importing its code and starting its processes",
    StartPhase.DISTRIBUTED: "having its ranks meet",
    StartPhase.WEIGHTS: "loading the weights",
    StartPhase.COMPILE: "compiling",
    StartPhase.PROFILE: "running the largest step once, to see what memory is left",
    StartPhase.KV: "laying out the KV cache",
    StartPhase.GRAPHS: "capturing CUDA graphs",
}
# One start of Scout on 8x H200, vLLM 0.12.0: 50 of 50 files in 7 s, then "Loading weights took 476.37 seconds".
_BEHIND_A_FULL_BAR = (
    "A full bar is not the end: the files may only be mapped so far, and are read as they are copied to the GPU, with "
    "no line until the engine says how long loading took (Scout on 8x H200, vLLM 0.12.0: the bar was full after 7 s, "
    "loading over after 476 s)."
)


@dataclass(frozen=True, slots=True)
class Bar:
    """The last state of a progress bar.

    Args:
        done: Steps done.
        total: Of so many.
        took_s: Seconds they took, by the bar.
        is_download: Whether the steps are files that come from the hub.
    """

    done: int
    total: int
    took_s: float
    is_download: bool = False

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at the pace so far; None when nothing is done."""
        return (self.total - self.done) * self.took_s / self.done if self.done else None


def read_bar(text: str) -> Bar | None:
    """The state of a progress bar in a line; None when there is none."""
    match = _BAR.search(text)
    if match is None or int(match["done"]) > int(match["total"]):
        return None
    seconds = 0
    for part in match["took"].split(":"):
        seconds = seconds * 60 + int(part)
    return Bar(int(match["done"]), int(match["total"]), float(seconds), "Fetching " in text[: match.start()])


def starting_terms(server_state: ServerState, timeline: Sequence[Entry]) -> Iterator[str]:
    """How long the start has been under way, what it waits for, and what usually follows; or how far it was when it
    ended."""
    latest = _latest(timeline)
    if latest is None:
        return
    bar = read_bar(latest.bar) if latest.bar else None
    if not server_state.is_starting:
        yield from _ended_at(server_state, latest, bar)
        return
    if bar is None and not server_state.args and not server_state.version:
        return  # a few lines of a log, pasted
    yield from _how_long(server_state, latest, bar)
    if bar is not None:
        yield from _pace(latest.phase, bar)
    engine = find_served(server_state.engine)
    if engine is not None:
        yield from _usual(engine.start_seconds, _after(latest), bool(server_state.args.get("enforce_eager")))


def describe_start(server_state: ServerState, timeline: Sequence[Entry]) -> str:
    """What a start is doing, in a few words; empty where the log shows none under way."""
    found = _latest(timeline)
    if found is None or not server_state.is_starting:
        return ""
    bar = read_bar(found.bar) if found.bar else None
    if bar is None:
        return _DOES[found.phase]
    doing = "downloading the model" if bar.is_download else _DOES[found.phase]
    return f"{doing}, {bar.done:,} of {bar.total:,} in {_seconds(bar.took_s)}"


def _latest(timeline: Sequence[Entry]) -> Entry | None:
    """The phase that a start is at. Lines of several processes mix: it is the one that is furthest."""
    order = {phase: number for number, phase in enumerate(STARTUP)}
    return max(
        (entry for entry in timeline if entry.phase in _DOES),
        key=lambda entry: order[entry.phase],
        default=None,
    )


def _how_long(server_state: ServerState, latest: Entry, bar: Bar | None) -> Iterator[str]:
    line = server_state.last.line
    doing = f"The log ends at line {line:,} while the engine is {_DOES[latest.phase]}"
    if _after(latest) is not latest.phase:
        doing = f"The log ends at line {line:,} after the weights were loaded, in what follows without a line"
    first, last = server_state.first_at, server_state.last_at
    if first is None or last is None:
        yield f"{doing}; it has no times."
        return
    # The lines of a bar have no time of their own: what the bar says counts from the phase's beginning.
    begun = latest.at if _after(latest) is latest.phase else latest.ended_at
    at = begun if begun is not None else last
    so_far = max(last - at, bar.took_s if bar is not None else 0.0)
    whole = max(last, at + so_far) - first
    yield f"{doing}: {_seconds(so_far)} in that phase, {_seconds(whole)} since the log's first line, at the least."


def _ended_at(server_state: ServerState, latest: Entry, bar: Bar | None) -> Iterator[str]:
    """How far a start was that ended while it loaded, and how long loading takes: for whoever sets a limit."""
    loading = latest.phase is StartPhase.WEIGHTS and server_state.ready is None
    if bar is None or not loading or not bar.done or bar.done == bar.total:
        return
    what = "downloaded" if bar.is_download else "read"
    whole = bar.took_s * bar.total / bar.done
    yield (
        f"When the start ended, its own progress line had {what} {bar.done:,} of {bar.total:,} files in "
        f"{_seconds(bar.took_s)}: at that pace all of them take {_seconds(whole)}."
    )


def _pace(phase: StartPhase, bar: Bar) -> Iterator[str]:
    if bar.is_download:
        yield from _download(bar)
        return
    what = "files" if phase is StartPhase.WEIGHTS else "steps"
    line = f"Its own progress line: {bar.done:,} of {bar.total:,} {what} in {_seconds(bar.took_s)}"
    if bar.done < bar.total:
        left = bar.left_s
        rest = (
            "" if left is None else f"; at that pace the other {bar.total - bar.done:,} take {_seconds(left)}"
        )
        yield f"{line}{rest}."
    else:
        yield f"{line}. {_BEHIND_A_FULL_BAR}" if phase is StartPhase.WEIGHTS else f"{line}."


def _after(latest: Entry) -> StartPhase:
    """The phase a start is in: after weights that are loaded the engine compiles, or runs its largest step."""
    return StartPhase.COMPILE if latest.phase is StartPhase.WEIGHTS and latest.done else latest.phase


def _download(bar: Bar) -> Iterator[str]:
    others = f"the other {bar.total - bar.done:,} take"
    rest = f"; at that pace {others} {_seconds(bar.left_s)}" if bar.left_s else ""
    yield (
        f"It downloads the model from the hub first: {bar.done:,} of {bar.total:,} files in {_seconds(bar.took_s)} by "
        f"its own progress line{rest}. Then they are read from the disk. A download kept on a mounted volume (HF_HOME) "
        "is not made again."
    )


def _usual(usual: StartSeconds, phase: StartPhase, eager: bool) -> Iterator[str]:
    order = list(STARTUP)
    steps = {
        StartPhase.ENGINE: usual.engine,
        StartPhase.COMPILE: usual.compile,
        StartPhase.PROFILE: usual.profile,
        StartPhase.GRAPHS: usual.graphs,
    }
    words = [
        f"{step.value} {format_seconds(seconds)}"
        for step, seconds in steps.items()
        if seconds and order.index(step) >= order.index(phase)
        if not (eager and step in (StartPhase.COMPILE, StartPhase.GRAPHS))
    ]
    if order.index(phase) <= order.index(StartPhase.WEIGHTS):
        words.append("weights as long as their bytes take from the disk, which `farspan serve` plans")
    if words:
        yield f"How long is usual from here ({usual.basis}): {', '.join(words)}."


def _seconds(seconds: float) -> str:
    return format_seconds(seconds) if seconds else "0 s"
