"""What an engine's own metrics prove about a request: preempted, hung, or not alone; and how far its prefill is.

Pure functions of samples. None is returned where the samples prove nothing, never where they prove the opposite.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from farspan.engines.metric_source import Measure
from farspan.measurement.observe.scrape import Sample
from farspan.sizes import format_seconds

HUNG_AFTER_S = 60.0
# Anything of this moves when an engine does something.
_SIGNS_OF_WORK = (
    Measure.PROMPT_TOKENS,
    Measure.PREFILLED_TOKENS,
    Measure.GENERATION_TOKENS,
    Measure.KV_TOKENS,
    Measure.KV_USAGE,
)


def find_preemption(samples: Sequence[Sample]) -> str | None:
    """Return evidence that the engine preempted requests during these samples.

    Args:
        samples: From just before the request was sent until just after it ended, in order.
    """
    counted = growth(samples, Measure.PREEMPTIONS)
    if not counted:
        return None
    times = "a request" if counted == 1 else f"{counted:.0f} requests"
    return f"the engine preempted {times} meanwhile: prompt tokens may have been computed twice"


def find_strangers(samples: Sequence[Sample], own_requests: int) -> str | None:
    """Return evidence that the engine served requests which are not ours.

    One sample is not enough: a request of ours that has just ended may still be counted.

    Args:
        samples: From the time the request was under way, in order.
        own_requests: The most requests that we had under way at a time meanwhile.
    """
    most = 0.0
    for one, two in itertools.pairwise(samples):
        loads = [load for load in (_load(one), _load(two)) if load is not None]
        if len(loads) == 2:
            most = max(most, min(loads))
    if most <= own_requests:
        return None
    return f"the engine held {most:.0f} requests while we had sent {own_requests}: others use it too"


def find_hang(samples: Sequence[Sample], quiet_s: float = HUNG_AFTER_S) -> str | None:
    """Return evidence that the engine will never get to its waiting requests.

    A request larger than the KV pool can wait for ever, the engine idle: nothing runs, something waits and nothing
    moves for `quiet_s`.

    Args:
        samples: The run's samples, in order, up to now.
        quiet_s: How long nothing must have moved.
    """
    if not samples:
        return None
    last = samples[-1]
    quiet = 0.0
    for sample in reversed(samples):
        waits = sample.values.get(Measure.WAITING, 0) > 0 and sample.values.get(Measure.RUNNING) == 0
        if not waits or any(sample.values.get(sign) != last.values.get(sign) for sign in _SIGNS_OF_WORK):
            break
        quiet = last.time - sample.time
    if quiet < quiet_s:
        return None
    waiting = last.values[Measure.WAITING]
    return (
        f"{waiting:.0f} waiting, none running and nothing computed for {format_seconds(quiet)}: "
        "the engine will not get to it"
    )


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """How far the prompts under way are: `tokens` of `of` computed, taken from `measure`."""

    tokens: float
    of: int
    measure: Measure

    @property
    def fraction(self) -> float:
        """Share of the prompts computed, 0 to 1."""
        return min(1.0, max(0.0, self.tokens / self.of)) if self.of else 0.0


def estimate_prefill(before: Sample, now: Sample, prompt_tokens: int) -> PrefillProgress | None:
    """Estimate how much of the prompts sent since `before` is computed.

    SGLang from 0.5.16 on counts prompt tokens chunk by chunk. Elsewhere it is the growth of the KV held: exact for
    a model with one kind of layer; a hybrid one's other layers keep windows of their own, so there it is too high by up
    to their sum (Scout on vLLM 0.32: 25k tokens, measured).

    Args:
        before: A sample from before the first of them was sent.
        now: The newest sample.
        prompt_tokens: Tokens of all prompts sent since then whose first token has not come.
    """
    for measure in (Measure.PREFILLED_TOKENS, Measure.KV_TOKENS):
        if measure in before.values and measure in now.values and prompt_tokens:
            tokens = now.values[measure] - before.values[measure]
            return PrefillProgress(max(0.0, tokens), prompt_tokens, measure)
    return None


def growth(samples: Sequence[Sample], counter: Measure) -> float | None:
    """Return by how much a counter grew over the samples; None when they do not have it twice.

    A counter that falls has been reset by a restart of the server: what came after counts.
    """
    values = [sample.values[counter] for sample in samples if counter in sample.values]
    if len(values) < 2:
        return None
    return sum(
        later - earlier if later >= earlier else later for earlier, later in itertools.pairwise(values)
    )


def _load(sample: Sample) -> float | None:
    running = sample.values.get(Measure.RUNNING)
    return None if running is None else running + sample.values.get(Measure.WAITING, 0)
