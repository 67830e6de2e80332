"""Sending requests: in a closed loop, so many at a time; or in an open one, at times set beforehand."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from farspan.errors import InputError
from farspan.measurement.analysis.labels import Surroundings
from farspan.measurement.analysis.measure import measure
from farspan.measurement.conversation import Conversation
from farspan.measurement.http.client import Client, Exchange, Lag, Limits
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.target import is_local, normalise_url
from farspan.measurement.observe.observer import Observer
from farspan.measurement.observe.processors import find_others_cpu, read_cpu
from farspan.measurement.options import BenchOptions
from farspan.measurement.prepared_requests import PreparedRequest
from farspan.measurement.progress import Watcher
from farspan.measurement.runs.engine_ttft import EngineTimes
from farspan.measurement.runs.job import Job
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import RunStore

# So many connections in a row refused mean that the server has gone: stop, and leave the rest for --resume.
_UNREACHABLE_IN_A_ROW = 3
_HANG_CHECK_S = 1.0
_LAG_CHECK_S = 0.02


@dataclass(slots=True)
class _InFlight:
    """What is noted about a request while it is under way."""

    started_at: float
    most_at_once: int = 1


class Load:
    """Sends prepared requests, keeps every result, and stops when there is a reason to.

    Args:
        options: How to send.
        store: Takes the results.
        requests: In the order to send.
        arrivals: When each is to leave, in seconds from the start; None sends the next when one is over.
        watcher: Its methods are called as requests leave and end.
        observers: Called at every request, and for what limits the trust in it.
        limits: How long to wait for a request.
    """

    def __init__(
        self,
        options: BenchOptions,
        store: RunStore,
        requests: Sequence[PreparedRequest],
        *,
        arrivals: Sequence[float] | None,
        watcher: Watcher,
        observers: Sequence[Observer],
        limits: Callable[[Job], Limits],
    ) -> None:
        self.stopped = ""
        self._options = options
        self._store = store
        self._left = deque(requests)
        self._arrivals = arrivals
        self._watcher = watcher
        self._observers = observers
        self._limits = limits
        self._unreachable = 0
        self._cut = 0
        self._broken = 0
        self._in_flight: dict[Job, _InFlight] = {}
        self._deadline: float | None = None
        self._hang = ""
        self._lags = array("d")
        # What a server on this machine uses cannot be told from what others use.
        self._sees_others = not is_local(normalise_url(options.url))

    @property
    def unsent(self) -> int:
        """Requests that have not left, and those that count as if they had not."""
        return len(self._left) + self._cut

    @property
    def loop_lag(self) -> Lag | None:
        """How late the event loop woke, measured throughout: how late a request may have been started."""
        return Lag.of(self._lags)

    async def run(self) -> None:
        """Send until nothing is left or there is a reason to stop."""
        options = self._options
        if options.time_limit_s is not None:
            self._deadline = time.perf_counter() + options.time_limit_s
        client = Client(normalise_url(options.url), api_key=options.api_key)
        try:
            async with client:
                beside = [
                    asyncio.create_task(self._measure_loop_lag()),
                    asyncio.create_task(self._follow_engine(client)),
                ]
                try:
                    async with asyncio.TaskGroup() as group:
                        if self._arrivals is not None:
                            await self._send_in_time(client, group, self._arrivals)
                    while self._left and not self._must_stop():
                        await self._send_block(client)
                    if self._broken and not self.stopped:
                        self.stopped = f"a turn of {self._broken} conversations failed"
                finally:
                    for task in beside:
                        task.cancel()
                    await asyncio.gather(*beside, return_exceptions=True)
        except* InputError as errors:
            raise _first(errors) from errors

    async def _send_block(self, client: Client) -> None:
        """Send what comes next at one concurrency, and wait until it is over."""
        block = self._name_block(self._left[0].job)
        at_once = self._left[0].job.concurrency or self._options.at_once or 1
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(self._left))):
                group.create_task(self._work(client, block))
        if at_once > 1 and not self._must_stop():
            await self._settle(time.perf_counter() - began)

    async def _work(self, client: Client, block: Hashable) -> None:
        while self._left and self._name_block(self._left[0].job) == block and not self._must_stop():
            request = self._left.popleft()
            if request.job.conversation:
                await self._converse(client, request)
            else:
                await self._send(client, request, late_s=0.0)

    async def _converse(self, client: Client, first: PreparedRequest) -> None:
        """Send a conversation's turns, each when the one before is answered. What follows a turn that failed is not
        sent.
        """
        turns = [first]
        while self._left and self._left[0].job.group == first.job.group:
            turns.append(self._left.popleft())
        said = Conversation()
        for number, request in enumerate(turns):
            if number and self._options.think_time_s:
                await asyncio.sleep(self._options.think_time_s)
            if self._must_stop():
                self._left.extendleft(reversed(turns[number:]))
                return
            exchange = await self._send(client, said.prepare(request), late_s=0.0, said=said)
            if exchange.status is not Status.OK:
                unsent = len(turns) - number - 1
                self._cut += unsent
                self._broken += unsent > 0
                return
            said.note(request, exchange)

    def _name_block(self, job: Job) -> Hashable:
        """Return what tells the requests that may be under way together from the others."""
        if job.conversation or self._options.turns is not None:
            return bool(job.conversation)
        if job.shared_tokens:
            return job.group, job.member == 0
        if job.concurrency is None:
            return None
        return job.concurrency, None if self._options.lengths else job.context

    async def _send_in_time(
        self, client: Client, group: asyncio.TaskGroup, arrivals: Sequence[float]
    ) -> None:
        room = asyncio.Semaphore(self._options.at_once or len(arrivals) + 1)
        began = time.perf_counter()

        async def send(request: PreparedRequest, due: float) -> None:
            try:
                await self._send(client, request, late_s=max(0.0, time.perf_counter() - due))
            finally:
                room.release()

        for arrival in arrivals:
            due = began + arrival
            while (left := due - time.perf_counter()) > 0 and not self._must_stop():
                await asyncio.sleep(min(left, 0.5))
            await room.acquire()
            if self._must_stop():
                room.release()
                return
            group.create_task(send(self._left.popleft(), due))

    async def _send(
        self, client: Client, request: PreparedRequest, *, late_s: float, said: Conversation | None = None
    ) -> Exchange:
        job = request.job
        started_at = time.time()
        self._in_flight[job] = _InFlight(started_at)
        for other in self._in_flight.values():
            other.most_at_once = max(other.most_at_once, len(self._in_flight))
        self._store.note_sent(job)
        self._watcher.started(job)
        for observer in self._observers:
            observer.on_started(job, started_at)

        def report_first_token(ttft_s: float) -> None:
            self._watcher.first_token(job, ttft_s)
            for observer in self._observers:
                observer.on_first_token(job, ttft_s)

        before = read_cpu() if self._sees_others else None
        exchange = await client.send(
            self._options.api,
            request.body,
            deadline=self._deadline,
            limits=self._limits(job),
            on_first_token=report_first_token,
        )
        after = read_cpu() if self._sees_others else None
        most_at_once = self._in_flight[job].most_at_once
        if most_at_once == 1:
            await self._settle(exchange.ended_s)
        del self._in_flight[job]
        around = Surroundings(
            most_at_once=most_at_once,
            others_cpu=find_others_cpu(before, after),
            late_s=late_s,
            observed=self._ask_observers(exchange, most_at_once),
            engine=self._find_engine_times(exchange) if most_at_once == 1 else None,
            cacheable_tokens=None if said is None else said.find_cacheable(request),
            encoded_again=said is not None and said.encoded_again,
        )
        result = measure(
            job,
            exchange,
            answer=request.prompt.answer,
            score=request.prompt.score(exchange.text),
            around=around,
            prompt_id=request.prompt.prompt_id,
        )
        if self._hang and result.status is Status.TIMED_OUT:
            result = _mark_hung(result, self._hang)
        if result.status is Status.TIMED_OUT and not self._options.keep_cut and self._is_over():
            self._cut += 1
            self._must_stop()
            self._watcher.given_up(job)
            return exchange
        self._unreachable = self._unreachable + 1 if result.status is Status.UNREACHABLE else 0
        await asyncio.to_thread(self._store.add, result)
        self._watcher.finished(result)
        for observer in self._observers:
            observer.on_request(result)
        return exchange

    def _ask_observers(self, exchange: Exchange, most_at_once: int) -> dict[str, str]:
        until = exchange.started_at + exchange.ended_s
        found: dict[str, str] = {}
        for observer in self._observers:
            found |= observer.find_labels(exchange.started_at, until, most_at_once)
        return found

    async def _settle(self, took_s: float) -> None:
        await asyncio.gather(*(observer.settle(took_s) for observer in self._observers))

    def _find_engine_times(self, exchange: Exchange) -> EngineTimes | None:
        until = exchange.started_at + exchange.ended_s
        found = (observer.find_engine_times(exchange.started_at, until) for observer in self._observers)
        return next((times for times in found if times is not None), None)

    async def _follow_engine(self, client: Client) -> None:
        """Show what the engine does, and stop the run when it will never get to the requests that wait."""
        while self._observers:
            await asyncio.sleep(_HANG_CHECK_S)
            self._watcher.progress(
                "; ".join(filter(None, (observer.describe_progress() for observer in self._observers)))
            )
            self._hang = next(filter(None, (observer.find_hang() for observer in self._observers)), "")
            if self._hang and self._in_flight:
                self.stopped = f"the engine hangs ({self._hang})"
                client.give_up()
                return

    async def _measure_loop_lag(self) -> None:
        while True:
            due = time.perf_counter() + _LAG_CHECK_S
            await asyncio.sleep(_LAG_CHECK_S)
            self._lags.append(max(0.0, time.perf_counter() - due))

    def _is_over(self) -> bool:
        return self._deadline is not None and time.perf_counter() >= self._deadline

    def _must_stop(self) -> bool:
        if self.stopped:
            return True
        if self._is_over():
            self.stopped = f"the time limit of {self._options.time_limit_s:g} s has passed"
        elif self._unreachable >= _UNREACHABLE_IN_A_ROW:
            self.stopped = f"the server at {self._options.url} no longer takes connections"
        return bool(self.stopped)


def _mark_hung(result: Result, evidence: str) -> Result:
    return replace(
        result,
        error=f"{result.error}: the engine hangs",
        labels=(*result.labels, "hung"),
        evidence=result.evidence | {"hung": evidence},
    )


def _first(errors: BaseExceptionGroup[InputError]) -> InputError:
    """Return the first error of a group: the others followed from the same cause."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
