"""Continuous batching with chunked prefill: which tokens of which request each step computes."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from farspan.builtin.sampling_params import SamplingParams
from farspan.kv.interface import KVCache, NoRoomError, RoomWait, SequenceKV

_LOG = logging.getLogger(__name__)


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
        namespace: Prefixes are shared only with requests of the same one.
        computed: Positions whose KV is in the cache.
        cached_tokens: Leading positions that were there when the request was first admitted; None before.
        admitted: When that was, by time.monotonic().
        wait: Its wait for room that others hold, while there is none for it.
        output: Tokens generated so far.
    """

    request_id: str
    prompt: NDArray[np.int32]
    params: SamplingParams
    namespace: bytes = b""
    sequence: SequenceKV | None = None
    computed: int = 0
    cached_tokens: int | None = None
    admitted: float | None = None
    wait: RoomWait | None = None
    output: list[int] = field(default_factory=list)
    generator: torch.Generator | None = None

    @property
    def max_length(self) -> int:
        """The most positions it ever computes: its last token is sent, never computed."""
        return len(self.prompt) + self.params.max_tokens - 1

    @property
    def pending(self) -> int:
        """Known tokens that are not computed yet; one when only the newest is missing."""
        return len(self.prompt) + len(self.output) - self.computed

    def tokens(self, start: int, stop: int) -> NDArray[np.int32]:
        """Return the known tokens at positions [start, stop), of the prompt and of the output after it."""
        prompt = self.prompt[start:stop]
        if stop <= len(self.prompt):
            return prompt
        output = self.output[max(0, start - len(self.prompt)) : stop - len(self.prompt)]
        return np.concatenate((prompt, np.array(output, np.int32)))


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


class RequestFailure(NamedTuple):
    """A request that cannot go on, and why."""

    request: Request
    error: Exception


class Scheduler:
    """Decides what each step computes. First come, first served; every decoding request moves every step.

    When there is no room for a step the request that was admitted last goes back to the front of the queue: its
    computed tokens stay findable, and it is computed again from what is then still there.

    Whatever goes wrong with one request is that request's end alone: it is taken out and kept in `failures`.

    Args:
        cache: Where sequences are opened.
        max_num_batched_tokens: The most tokens of one step.
        max_num_seqs: The most requests in progress at once.

    Attributes:
        max_num_seqs: As given, and no more than a step has tokens.
        waiting: Requests that wait for room, in order.
        running: Requests in progress, in the order of their admission.
        failures: Requests that failed and have not been taken yet.
        preemptions: How often a request lost its room.
    """

    def __init__(self, cache: KVCache, max_num_batched_tokens: int, max_num_seqs: int) -> None:
        self._cache = cache
        self._max_tokens = max_num_batched_tokens
        self.max_num_seqs = min(max_num_seqs, max_num_batched_tokens)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.failures: list[RequestFailure] = []
        self.preemptions = 0

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it is, and give its room back; one that is not here is left alone."""
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        _close(request)

    def fail(self, request: Request, error: Exception) -> None:
        """Take a request out, wherever it is, and keep its error."""
        self.remove(request)
        self.failures.append(RequestFailure(request, error))

    def take_failures(self) -> list[RequestFailure]:
        """Return the requests that failed since the last call."""
        taken, self.failures = self.failures, []
        return taken

    def schedule(self) -> list[Work]:
        """Return the work of the next step, with room appended to each sequence; empty when there is nothing to do.

        A request that can never be admitted fails, and so does the only one in progress when there is no room for it:
        waiting would be for ever.
        """
        self._admit()
        step: list[Work] = []
        for work in self._wanted():
            if work.request.sequence is not None and self._make_room(work, step):
                step.append(work)
        return step

    def advance(self, work: Work) -> None:
        """Record that a piece has been computed."""
        request = work.request
        if request.sequence is not None:
            request.sequence.computed(request.tokens(work.start, work.start + work.count))
        request.computed += work.count

    def _wanted(self) -> list[Work]:
        """Return the step as it would be if there were room: first who decodes, then prompts, oldest first."""
        step = [Work(request, request.computed, 1) for request in self.running if request.pending == 1]
        budget = self._max_tokens - len(step)
        for request in self.running:
            if request.pending > 1 and budget > 0:
                count = min(budget, request.pending)
                step.append(Work(request, request.computed, count))
                budget -= count
        return step

    def _make_room(self, work: Work, step: list[Work]) -> bool:
        """Append the work's positions, preempting the newest requests as needed; False when it was its own turn."""
        alone = False
        while True:
            assert work.request.sequence is not None
            try:
                work.request.sequence.append(work.count)
            except NoRoomError as error:
                if len(self.running) == 1:
                    if alone:
                        self.fail(work.request, error)
                        return False
                    # Nothing else is in progress: what is kept for later requests goes before this one does.
                    alone = True
                    self._cache.reset_prefixes()
                    continue
                newest = self.running[-1]
                self._preempt(newest)
                step[:] = [other for other in step if other.request is not newest]
                if newest is work.request:
                    return False
            except Exception as error:  # noqa: BLE001 whatever it is, the neighbours go on
                self.fail(work.request, error)
                return False
            else:
                return True

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        _close(request)
        request.computed = 0
        self.waiting.appendleft(request)
        self.preemptions += 1

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.max_num_seqs:
            request = self.waiting[0]
            try:
                has_room = self._open(request)
            except Exception as error:  # noqa: BLE001 whatever it is, the neighbours go on
                self.fail(request, error)
                continue
            if not has_room:
                return
            self.running.append(self.waiting.popleft())

    def _open(self, request: Request) -> bool:
        """Open a request's sequence; False when there is no room now.

        Raises:
            KVCacheError: It no longer fits: what the cache may take has shrunk since the request was queued, or others
                need what it waits for.
        """
        known = request.tokens(0, len(request.prompt) + len(request.output))
        request.sequence = self._cache.open(known, request.max_length, request.namespace)
        if request.sequence is None:
            request.wait = self._cache.check_wait(request.max_length, request.wait)
            return False
        request.wait = None
        request.computed = request.sequence.cached_tokens
        if request.cached_tokens is None:
            request.cached_tokens = request.computed
            request.admitted = time.monotonic()
            request.generator = request.params.generator()
        return True


def _close(request: Request) -> None:
    sequence, request.sequence = request.sequence, None
    if sequence is not None:
        try:
            sequence.close()
        except Exception:  # noqa: BLE001 whatever it is, it is that one's
            _LOG.exception("the KV cache of request %s could not be given back", request.request_id)
