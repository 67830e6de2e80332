"""Which requests to send, and in which order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """One request to make. Two jobs are the same request exactly when they are equal.

    Args:
        context: Prompt tokens as the server counts them.
        depth: Where the needle goes: 0 the start, 1 the end.
        repeat: Which round this is, from 0.
        seed: The run's seed.
        output_tokens: Tokens to generate.
    """

    context: int
    depth: float
    repeat: int
    seed: int
    output_tokens: int

    @property
    def prompt_seed(self) -> int:
        """A seed for this job's prompt: its own, and the same whatever else the run holds (63 bits)."""
        words = f"{self.seed} {self.context} {self.depth!r} {self.repeat} {self.output_tokens}"
        return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big") >> 1


def plan_jobs(
    *,
    contexts: Sequence[int],
    depths: Sequence[float],
    repeats: int,
    seed: int,
    output_tokens: int,
    in_order: bool = False,
) -> tuple[Job, ...]:
    """List the requests of a run.

    The run goes in rounds. Every round visits each context and depth once, so that a drift of the machine
    falls on all of them alike and a run that is stopped early has something of each.

    Args:
        contexts: Prompt lengths in tokens; duplicates count once.
        depths: Needle depths, 0 to 1; duplicates count once.
        repeats: Number of rounds.
        seed: Decides the order within each round and every prompt.
        output_tokens: Tokens to generate for each request.
        in_order: Visit contexts and depths as given instead of shuffled.
    """
    points = [(context, depth) for context in dict.fromkeys(contexts) for depth in dict.fromkeys(depths)]
    jobs: list[Job] = []
    for repeat in range(repeats):
        visited = list(points)
        if not in_order:
            random.Random(f"order {seed} {repeat}").shuffle(visited)
        jobs += [Job(context, depth, repeat, seed, output_tokens) for context, depth in visited]
    return tuple(jobs)
