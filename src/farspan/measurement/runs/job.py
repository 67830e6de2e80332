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
        shared_tokens: The first tokens of the prompt that it shares with the others of its group; 0 shares none.
        member: Which of its group it is, from 0; the first of a group is sent, and over, before the others.
            Of a trace: 1 when an earlier request has its first tokens, and `repeat` is its place.
            Of a conversation: the turn, and `shared_tokens` are the turns before with their answers.
        conversation: Tokens of the first turn's prompt, of a turn of a conversation; else 0.
    """

    context: int
    depth: float
    repeat: int
    seed: int
    output_tokens: int
    phase: LoadPhase = LoadPhase.MEASURED
    concurrency: int | None = None
    shared_tokens: int = 0
    member: int = 0
    conversation: int = 0

    @property
    def group(self) -> Job:
        """The first of the group that shares a prefix, or of the conversation; any other job is its own."""
        if self.conversation:
            return replace(self, context=self.conversation, shared_tokens=0, member=0)
        return replace(self, member=0) if self.member else self

    @property
    def expected_cached_tokens(self) -> int | None:
        """The prompt tokens a server that caches prefixes has of it; None for a job of a group that shares none."""
        if not self.shared_tokens and not self.conversation:
            return None
        return self.shared_tokens if self.member else 0

    def with_fresh_seed(self, times_sent: int) -> Job:
        """Return the job with another seed for every time it has been sent before: its prompt begins otherwise."""
        if not times_sent:
            return self
        return replace(self, seed=int.from_bytes(_digest(f"{self.seed} again {times_sent}"), "big") >> 1)

    @property
    def prompt_seed(self) -> int:
        """A seed for this job's prompt: its own, and the same whatever else the run holds."""
        return self.group_seed + (self.member + 1 if self.shared_tokens or self.conversation else 0)

    @property
    def group_seed(self) -> int:
        """A seed for what a group shares (63 bits)."""
        if self.conversation:
            alike = replace(self.group, conversation=0)
            return int.from_bytes(_digest(f"conversation {alike.group_seed}"), "big") >> 1
        words = f"{self.seed} {self.context} {self.depth!r} {self.repeat} {self.output_tokens}"
        if self.phase is not LoadPhase.MEASURED:
            words += f" {self.phase.value}"
        if self.concurrency is not None:
            words += f" among {self.concurrency}"
        if self.shared_tokens:
            words += f" sharing {self.shared_tokens}"
        return int.from_bytes(_digest(words), "big") >> 1


def _digest(words: str) -> bytes:
    return hashlib.blake2b(words.encode(), digest_size=8).digest()
