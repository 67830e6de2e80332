"""Continuous batching with chunked prefill: which tokens of which request each step computes."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from farspan.builtin.sampling import SamplingParams
from farspan.kv.interface import KVCache, SequenceKV


class FinishReason(StrEnum):
    """Why a request ended; the first two are OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


@dataclass(slots=True, eq=False)
class Request:
    """One request from arrival to end.

    Attributes:
        request_id: Unique among requests in flight.
        prompt: Token ids, int32 [tokens].
        params: How its tokens are chosen.
        computed: Positions whose KV is in the cache.
        cached_tokens: Leading positions that were there when the request was admitted; None before.
        admitted: When that was, by time.monotonic().
        output: Tokens generated so far.
    """

    request_id: str
    prompt: NDArray[np.int32]
    params: SamplingParams
    sequence: SequenceKV | None = None
    computed: int = 0
    cached_tokens: int | None = None
    admitted: float | None = None
    output: list[int] = field(default_factory=list)
    generator: torch.Generator | None = None

    @property
    def max_length(self) -> int:
        """The most positions it ever computes: its last token is sent, never computed."""
        return len(self.prompt) + self.params.max_tokens - 1

    @property
    def decoding(self) -> bool:
        """Whether the whole prompt has been computed."""
        return self.computed >= len(self.prompt)


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of one request to compute in this step."""

    request: Request
    start: int
    count: int

    @property
    def yields_token(self) -> bool:
        """Whether the step's last position is the last one known, so that a token follows."""
        return self.start + self.count == len(self.request.prompt) + len(self.request.output)


class Scheduler:
    """Decides what each step computes. First come, first served; every decoding request moves every step.

    Args:
        cache: Where sequences are opened.
        max_num_batched_tokens: The most tokens of one step.
        max_num_seqs: The most requests in progress at once.
    """

    def __init__(self, cache: KVCache, max_num_batched_tokens: int, max_num_seqs: int) -> None:
        self._cache = cache
        self._max_tokens = max_num_batched_tokens
        self._max_seqs = min(max_num_seqs, max_num_batched_tokens)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it is, and give its room back; one that is not here is left alone."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        if request.sequence is not None:
            request.sequence.close()
            request.sequence = None

    def schedule(self) -> list[Work]:
        """Return the work of the next step, with room appended to each sequence; empty when there is nothing to do."""
        self._admit()
        budget = self._max_tokens
        step: list[Work] = []
        for request in self.running:
            if request.decoding:
                step.append(Work(request, request.computed, 1))
                budget -= 1
        for request in self.running:
            if not request.decoding and budget > 0:
                count = min(budget, len(request.prompt) - request.computed)
                step.append(Work(request, request.computed, count))
                budget -= count
        for work in step:
            assert work.request.sequence is not None
            work.request.sequence.append(work.count)
        return step

    def advance(self, work: Work) -> None:
        """Record that a piece has been computed, and let go of keys and values no layer needs any more."""
        request = work.request
        request.computed += work.count
        if request.sequence is not None:
            request.sequence.retain(request.computed)

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._max_seqs:
            request = self.waiting[0]
            request.sequence = self._cache.open(request.prompt, request.max_length)
            if request.sequence is None:
                return
            # The last prompt token is always computed: its logits choose the first output token.
            request.cached_tokens = min(request.sequence.cached_tokens, len(request.prompt) - 1)
            request.computed = request.cached_tokens
            request.admitted = time.monotonic()
            request.generator = request.params.generator()
            self.running.append(self.waiting.popleft())
