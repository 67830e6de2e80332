"""What was seen of a running server within some seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from farspan.diagnosis.live.processes import Process
from farspan.diagnosis.live.reach import Reply
from farspan.engines.metric_source import Measure

Frames = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class LiveView:
    """One look at a server.

    Args:
        where: Where it is, for a sentence.
        engine: The engine's name, by its metrics; empty when they do not say.
        version: Its version; empty when it does not say.
        health: What /health answered.
        before: What its metrics said first.
        after: What they said `seconds` later.
        seconds: The time between.
        settings: Its arguments, as it tells them itself.
        processes: Its processes, when they can be seen from here.
        stacks: Where the main threads of the busy ones stand, innermost frame first.
        can_see_stacks: Whether any stack could be read.
    """

    where: str
    engine: str
    version: str
    health: Reply
    before: Mapping[Measure, float]
    after: Mapping[Measure, float]
    seconds: float
    settings: Mapping[str, object] = field(default_factory=dict)
    processes: tuple[Process, ...] = ()
    stacks: Mapping[int, Frames] = field(default_factory=dict)
    can_see_stacks: bool = False

    def now(self, measure: Measure) -> float:
        """A measure's last value; 0 when the server does not export it."""
        return self.after.get(measure, 0.0)

    def grew(self, measure: Measure) -> float:
        """How much a counter grew while it was watched."""
        return max(self.after.get(measure, 0.0) - self.before.get(measure, 0.0), 0.0)

    def stands_in(self, *names: str) -> Process | None:
        """A process whose main thread stands in one of these files or functions."""
        for process in self.processes:
            for file, function in self.stacks.get(process.pid, ()):
                if any(name in file or name == function for name in names):
                    return process
        return None

    def named(self, *words: str) -> tuple[Process, ...]:
        """The processes whose name has one of these words."""
        return tuple(one for one in self.processes if any(word in one.name for word in words))

    def figures(self) -> str:
        """Its state in figures, for evidence."""
        words = [
            f"running {self.now(Measure.RUNNING):.0f}",
            f"waiting {self.now(Measure.WAITING):.0f}",
            f"KV {self.now(Measure.KV_USAGE):.1%}",
            f"generated {self.grew(Measure.GENERATION_TOKENS):,.0f} tokens in {self.seconds:.0f} s",
        ]
        return ", ".join(words)
