"""One request to make."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum


class LoadPhase(StrEnum):
    """What a request is for. All are kept; statistics take the measured ones alone."""

    WARMUP = "warm-up"
    MEASURED = "measured"
    COOLDOWN = "cool-down"


@dataclass(frozen=True, slots=True)
class Job:
    """One request to make. Two jobs are the same request exactly when they are equal.

    Args:
        context: Prompt tokens as the server counts them.
        depth: Where the needle goes: 0 the start, 1 the end.
        repeat: Which round this is, from 0; of lengths drawn from a distribution, which draw.
        seed: The run's seed.
        output_tokens: Tokens to generate.
        phase: What it is for.
        concurrency: How many requests it is sent among, in a run that goes through several; else None.
    """

    context: int
    depth: float
    repeat: int
    seed: int
    output_tokens: int
    phase: LoadPhase = LoadPhase.MEASURED
    concurrency: int | None = None

    def with_fresh_seed(self, times_sent: int) -> Job:
        """Return the job with another seed for every time it has been sent before: its prompt begins otherwise."""
        if not times_sent:
            return self
        digest = hashlib.blake2b(f"{self.seed} again {times_sent}".encode(), digest_size=8).digest()
        return replace(self, seed=int.from_bytes(digest, "big") >> 1)

    @property
    def prompt_seed(self) -> int:
        """A seed for this job's prompt: its own, and the same whatever else the run holds (63 bits)."""
        words = f"{self.seed} {self.context} {self.depth!r} {self.repeat} {self.output_tokens}"
        if self.phase is not LoadPhase.MEASURED:
            words += f" {self.phase.value}"
        if self.concurrency is not None:
            words += f" among {self.concurrency}"
        return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big") >> 1
