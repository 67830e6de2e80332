"""Which requests to send, in which order, and when."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from farspan.measurement.lengths import Lengths
from farspan.measurement.runs.job import Job, LoadPhase
from farspan.measurement.shared_length import SharedLength
from farspan.measurement.trace import TracedRequest


def plan_jobs(
    *,
    contexts: Sequence[int] = (),
    depths: Sequence[float],
    repeats: int,
    seed: int,
    output_tokens: int,
    in_order: bool = False,
    lengths: Lengths | None = None,
    requests: int | None = None,
    warmup: int = 0,
    cooldown: int = 0,
    concurrencies: Sequence[int] = (),
    shared: SharedLength | None = None,
    group_size: int = 1,
) -> tuple[Job, ...]:
    """List the requests of a run: those that warm up, the measured ones, those that cool down.

    The measured ones go in rounds. Every round visits each context and depth once, so that a drift of the machine
    falls on all of them alike and a run that is stopped early has something of each. Those before and after go
    through the contexts and depths in turn.

    Args:
        contexts: Prompt lengths in tokens; duplicates count once.
        depths: Needle depths, 0 to 1; duplicates count once.
        repeats: Number of rounds.
        seed: Decides the order within each round and every prompt.
        output_tokens: Tokens to generate for each request.
        in_order: Visit contexts and depths as given instead of shuffled.
        lengths: Draw the length of every request from this instead of `contexts`.
        requests: Number of measured requests, instead of `repeats` rounds.
        warmup, cooldown: Number of requests before and after.
        concurrencies: Go through these one after another: all of the measured requests at each, one context after
            another, and at least as many of a context as are to be under way at a time.
        shared: Instead of one request, send a group of `group_size` that share so much of their prompts.
        group_size: Requests in such a group.
    """
    if concurrencies:
        return _plan_sweep(
            tuple(dict.fromkeys(concurrencies)),
            contexts=contexts,
            depths=depths,
            repeats=repeats,
            seed=seed,
            output_tokens=output_tokens,
            in_order=in_order,
            lengths=lengths,
            requests=requests,
            warmup=warmup,
            cooldown=cooldown,
        )
    measured: list[Job] = []
    if lengths is not None:
        count = repeats if requests is None else requests
        places = tuple(dict.fromkeys(depths))
        drawn = lengths.draw(count, seed)
        measured = [
            Job(context, places[i % len(places)], i, seed, output_tokens) for i, context in enumerate(drawn)
        ]
        points = [(job.context, job.depth) for job in measured]
    else:
        points = _list_points(contexts, depths)
        together = len(points) * (1 if shared is None else group_size)
        rounds = repeats if requests is None else math.ceil(requests / together)
        for job in _iter_rounds(points, rounds, seed, output_tokens, in_order=in_order):
            measured += [job] if shared is None else _list_group(job, shared, group_size)
        measured = measured[:requests]

    def around(count: int, phase: LoadPhase) -> list[Job]:
        visited = (points[i % len(points)] for i in range(count))
        return [
            Job(context, depth, i, seed, output_tokens, phase) for i, (context, depth) in enumerate(visited)
        ]

    return (*around(warmup, LoadPhase.WARMUP), *measured, *around(cooldown, LoadPhase.COOLDOWN))


def _list_points(contexts: Sequence[int], depths: Sequence[float]) -> list[tuple[int, float]]:
    return [(context, depth) for context in dict.fromkeys(contexts) for depth in dict.fromkeys(depths)]


def _iter_rounds(
    points: Sequence[tuple[int, float]], rounds: int, seed: int, output_tokens: int, *, in_order: bool
) -> Iterator[Job]:
    """Yield a job for every point in every round, shuffled anew in each unless `in_order`."""
    for repeat in range(rounds):
        visited = list(points)
        if not in_order:
            random.Random(f"order {seed} {repeat}").shuffle(visited)
        for context, depth in visited:
            yield Job(context, depth, repeat, seed, output_tokens)


def _list_group(job: Job, shared: SharedLength, size: int) -> list[Job]:
    """List the requests that share a prefix; the first is the one that finds nothing cached."""
    return [replace(job, shared_tokens=shared.of(job.context), member=member) for member in range(size)]


def _plan_sweep(
    concurrencies: Sequence[int],
    *,
    contexts: Sequence[int],
    depths: Sequence[float],
    repeats: int,
    requests: int | None,
    lengths: Lengths | None,
    warmup: int,
    cooldown: int,
    **alike: Any,
) -> tuple[Job, ...]:
    jobs: list[Job] = []
    rounds = len(dict.fromkeys(depths)) if lengths is None else 1
    for concurrency in concurrencies:
        for context in dict.fromkeys(contexts) if lengths is None else (None,):
            block = plan_jobs(
                contexts=() if context is None else (context,),
                depths=depths,
                repeats=max(repeats, math.ceil(concurrency / rounds)),
                requests=requests,
                lengths=lengths,
                warmup=warmup if not jobs else 0,
                **alike,
            )
            jobs += [replace(job, concurrency=concurrency) for job in block]
    last = [job for job in jobs if job.phase is LoadPhase.MEASURED][-1:]
    jobs += [replace(job, phase=LoadPhase.COOLDOWN, repeat=i) for job in last for i in range(cooldown)]
    return tuple(jobs)


def plan_conversations(
    *,
    contexts: Sequence[int],
    depths: Sequence[float],
    repeats: int,
    seed: int,
    output_tokens: int,
    turns: int,
    turn_tokens: int,
    in_order: bool = False,
    cold: bool = True,
) -> tuple[Job, ...]:
    """List the turns of every conversation, one conversation after another, and then a fresh prompt as long as each.

    Args:
        contexts: Tokens of the first prompt of a conversation.
        depths: Needle depths.
        repeats: Conversations at each context and depth.
        seed: Decides the order within each round and every prompt.
        output_tokens: Tokens of every answer.
        turns: Turns of a conversation.
        turn_tokens: Tokens that every turn after the first adds to what was said before.
        in_order: Visit contexts and depths as given instead of shuffled.
        cold: Send the fresh prompts too.
    """
    turned: list[Job] = []
    fresh: list[Job] = []
    grows = output_tokens + turn_tokens
    for first in _iter_rounds(
        _list_points(contexts, depths), repeats, seed, output_tokens, in_order=in_order
    ):
        for turn in range(turns):
            job = replace(first, context=first.context + turn * grows)
            # The last token of an answer is not computed with it.
            before = job.context - turn_tokens - 1 if turn else 0
            turned.append(replace(job, shared_tokens=before, member=turn, conversation=first.context))
            fresh += [job] if turn and cold else []
    # Two conversations may grow to the same length: one fresh prompt a round is enough.
    return (*turned, *dict.fromkeys(fresh))


def plan_traced_jobs(requests: Sequence[TracedRequest], *, seed: int) -> tuple[Job, ...]:
    """List the requests of a trace, in order; those of which an earlier one has the first tokens follow it."""
    return tuple(
        Job(
            request.input_tokens,
            0.0,
            number,
            seed,
            request.output_tokens,
            shared_tokens=request.cacheable_tokens,
            member=1 if request.cacheable_tokens else 0,
        )
        for number, request in enumerate(requests)
    )


def plan_arrivals(count: int, *, rate: float, burstiness: float, seed: int) -> tuple[float, ...]:
    """Return when each of `count` requests is to leave, in seconds from the start; the first leaves at once.

    The gaps are drawn from a gamma distribution of mean 1/rate and shape `burstiness`, as `vllm bench serve` draws
    them: 1 is a Poisson process, less comes in bursts, more is more even, infinity is constant. The gaps are as drawn:
    unlike vLLM's they are not stretched to the nominal duration, so the rate holds on average only.
    """
    numbers = random.Random(f"arrivals {seed}")
    at = 0.0
    arrivals: list[float] = []
    for _ in range(count):
        arrivals.append(at)
        even = math.isinf(burstiness)
        at += 1 / rate if even else numbers.gammavariate(burstiness, 1 / (rate * burstiness))
    return tuple(arrivals)
