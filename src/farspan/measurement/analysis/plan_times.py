"""What a plan says about times, so that limits need not be guessed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from farspan.errors import InputError
from farspan.measurement.http.client import Limits
from farspan.measurement.runs.job import Job
from farspan.planner.document import PlanDocument

# A planned time is an estimate: a limit must never end a request that only takes longer than planned.
_PATIENCE = 5.0
_LEAST_S = 60.0


@dataclass(frozen=True, slots=True)
class PlannedTtft:
    """The TTFT that a plan gives one request alone on the server, in seconds.

    Args:
        context: Prompt tokens.
        engine: Whose it is.
        expected_s: What to expect.
        floor_s: What no hardware of the planned kind can beat; None when the plan does not say.
    """

    context: int
    engine: str
    expected_s: float
    floor_s: float | None


@dataclass(frozen=True, slots=True)
class PlanTimes:
    """Expected TTFT by context, in seconds, of one engine or of the slowest of several.

    Args:
        ttft_s: Expected TTFT of a request alone on the server, by prompt tokens.
    """

    ttft_s: dict[int, float]

    def predict_ttft(self, context: int) -> float | None:
        """Return the time for a prompt of `context` tokens, in seconds; None when the plan has no times.

        Prefill is a n + b n^2 with a, b >= 0. Between planned contexts and below them it is at most linear from the
        next longer one; above them at most quadratic from the longest.
        """
        longer = [planned for planned in self.ttft_s if planned >= context]
        if longer:
            nearest = min(longer)
            return self.ttft_s[nearest] * context / nearest
        if self.ttft_s:
            longest = max(self.ttft_s)
            return self.ttft_s[longest] * (context / longest) ** 2
        return None

    def limit(self, job: Job, given: Limits, *, concurrency: int) -> Limits:
        """Return the limits of a request: a first-token limit that is not given is five times the planned TTFT for
        every request that may be ahead of it, and never below a minute.
        """
        expected = self.predict_ttft(job.context)
        if given.first_token_s is not None or expected is None:
            return given
        return Limits(given.connect_s, max(_LEAST_S, _PATIENCE * expected * concurrency), given.idle_s)


def read_plan_times(path: Path, *, engine: str | None = None) -> PlanTimes:
    """Read the times from a file that `farspan plan --json` wrote, of one context or of a sweep.

    Args:
        path: The file.
        engine: Whose times; None takes the slowest at each context.

    Raises:
        InputError: The file is not there, is no plan, or plans no time.
    """
    plan = PlanDocument.load(path)
    times: dict[int, float] = {}
    for row in list_planned(plan):
        if engine in (None, row.engine):
            times[row.context] = max(times.get(row.context, 0.0), row.expected_s)
    if not times:
        whose = f" for {engine}" if engine else ""
        raise InputError(
            f"{path} holds no planned time above 0{whose}",
            "write it with farspan plan ... --contexts ... --json",
        )
    return PlanTimes(times)


def list_planned(plan: PlanDocument) -> tuple[PlannedTtft, ...]:
    """List the TTFTs in a plan; none in one for several kinds of GPU, where an engine has more than one."""
    if len(plan.parts) != 1:
        return ()
    (part,) = plan.parts
    found = []
    for engine in part.engines:
        for answer in part.answers_of(engine):
            ttft = answer.ttft_s
            if ttft is not None and ttft.expected > 0 and answer.context is not None:
                floor = ttft.floor if ttft.floor > 0 else None
                found.append(PlannedTtft(answer.context, engine, ttft.expected, floor))
    return tuple(found)
