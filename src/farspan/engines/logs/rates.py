"""How fast the server really was, from timestamps and not from the rates it logs.

vLLM adds a prompt's tokens when its first output token appears and divides them by the time since its last line,
so a prompt of 9.81M tokens that took 2,964 s is logged as 981,184.7 tokens/s. The tokens are right: rate times the
10 s between lines. What they must be divided by is the time since the server began to work.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from farspan.engines.logs.records import Batch, Throughput, WorkBegins

LOG_INTERVAL_S = 10.0
_WINDOWS = 64
_LONG_GAP_S = 120.0


@dataclass(frozen=True, slots=True)
class Prefill:
    """One stretch of prefill work.

    Args:
        line: The line that ends it.
        tokens: Prompt tokens.
        seconds: How long it took.
        uncertainty_s: How far `seconds` may be off, either way.
        logged_tps: The highest rate the engine logged for it; 0 when it logs none.
    """

    line: int
    tokens: float
    seconds: float
    uncertainty_s: float
    logged_tps: float

    @property
    def tps(self) -> float:
        """Prompt tokens a second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def range_tps(self) -> tuple[float, float]:
        """The slowest and fastest rate the timestamps allow."""
        least = max(self.seconds - self.uncertainty_s, 1.0)
        return self.tokens / (self.seconds + self.uncertainty_s), self.tokens / least


@dataclass(slots=True)
class _Engine:
    """One vLLM engine's stretch of work: from the first line with a request running to the first without."""

    began: float | None = None
    is_exact: bool = False
    last_at: float | None = None
    tokens: float = 0.0
    logged: float = 0.0
    prompt_line: int = 0
    prompt_at: float | None = None


@dataclass(slots=True)
class Stuck:
    """A request that waits while nothing runs and no tokens move."""

    line: int
    since: float | None
    until: float | None
    lines: int
    waiting: int
    peak_usage: float


@dataclass(slots=True)
class Rates:
    """Follows throughput and batch lines. Keeps the most telling stretches only."""

    prefills: list[Prefill] = field(default_factory=list)
    highest: tuple[float, int] = (0.0, 0)
    stuck: Stuck | None = None
    worst_stuck: Stuck | None = None
    lines: int = 0
    last_usage: float = 0.0
    peak_usage: float = 0.0
    queue_stuck: bool = False
    preemptions: tuple[int, int] = (0, 0)
    hit_rate: tuple[float, int] = (0.0, 0)
    busiest: Throughput | None = None
    generation_tps: float = 0.0
    most_new_tokens: int = 0
    new_tokens: int = 0
    cached_tokens: int = 0
    _work_at: float | None = None
    _engines: dict[str, _Engine] = field(default_factory=dict)
    _batch_began: float | None = None
    _batch_last: float | None = None
    _batch_tokens: float = 0.0

    def work_begins(self, event: WorkBegins) -> None:
        """Note that a request came in: what is logged next is of work that began here."""
        if self._work_at is None:
            self._work_at = event.where.at

    def see_throughput(self, sample: Throughput) -> None:
        """Take in one of vLLM's periodic lines."""
        self.lines += 1
        where, prompt_tps, generation_tps, running, waiting, usage, name, preemptions, hit_rate = sample
        if preemptions > self.preemptions[0]:
            self.preemptions = (preemptions, where.line)
        if usage > self.peak_usage:
            self.peak_usage = usage
        if prompt_tps > self.highest[0]:
            self.highest = (prompt_tps, where.line)
        if self.busiest is None or (prompt_tps, generation_tps) > self.busiest[1:3]:
            self.busiest = sample
        if hit_rate:
            self.hit_rate = (hit_rate, where.line)
        if running:
            self.stuck = None
        else:
            self._see_stuck(sample)
        at = where.at
        if at is None:
            return
        engine = self._engines.get(name)
        if engine is None:
            if len(self._engines) >= _WINDOWS:
                return
            engine = self._engines[name] = _Engine()
        # The line comes every 10 s while there is work; after silence the interval is not known from the lines.
        since = at - engine.last_at if engine.last_at is not None else LOG_INTERVAL_S
        interval = since if 0 < since < 2 * LOG_INTERVAL_S else LOG_INTERVAL_S
        engine.last_at = at
        if engine.began is None and (running or waiting or prompt_tps):
            engine.is_exact = self._work_at is not None and self._work_at <= at
            engine.began = self._work_at if engine.is_exact else at - interval / 2
            self._work_at = None
        if prompt_tps and engine.began is not None:
            engine.tokens += prompt_tps * interval
            engine.logged = max(engine.logged, prompt_tps)
            engine.prompt_line, engine.prompt_at = where.line, at
        if not running and not waiting:
            self._finish(engine)

    def _finish(self, engine: _Engine) -> None:
        if engine.began is not None and engine.prompt_at is not None:
            # The tokens were counted somewhere within the interval before their line.
            late = 0.0 if engine.is_exact else LOG_INTERVAL_S / 2
            seconds = engine.prompt_at - late - engine.began
            self._keep(Prefill(engine.prompt_line, engine.tokens, seconds, LOG_INTERVAL_S, engine.logged))
        engine.began, engine.tokens, engine.logged, engine.prompt_at = None, 0.0, 0.0, None

    def _keep(self, prefill: Prefill) -> None:
        if prefill.seconds <= 0:
            return
        self.prefills.append(prefill)
        if len(self.prefills) > _WINDOWS:
            self.prefills.remove(min(self.prefills, key=lambda one: one.tokens))

    def _see_stuck(self, sample: Throughput) -> None:
        idle = (
            sample.waiting > 0 and not sample.running and not sample.prompt_tps and not sample.generation_tps
        )
        if not idle:
            self.stuck = None
            return
        at = sample.where.at
        if self.stuck is None:
            self.stuck = Stuck(sample.where.line, at, at, 0, sample.waiting, sample.usage)
        self.stuck.until = at
        self.stuck.lines += 1
        self.stuck.waiting = max(self.stuck.waiting, sample.waiting)
        self.stuck.peak_usage = max(self.stuck.peak_usage, self.peak_usage)
        if self.worst_stuck is None or self.stuck.lines >= self.worst_stuck.lines:
            self.worst_stuck = self.stuck

    def see_batch(self, batch: Batch) -> None:
        """Take in one of SGLang's batch lines."""
        self.lines += 1
        where, prefill, new_tokens, cached, running, queued, usage, generation_tps = batch
        if prefill:
            self.new_tokens += new_tokens
            self.cached_tokens += cached
        self.generation_tps = max(self.generation_tps, generation_tps)
        self.most_new_tokens = max(self.most_new_tokens, new_tokens)
        self.last_usage = usage
        if usage > self.peak_usage:
            self.peak_usage = usage
        self.queue_stuck = queued > 0 and running == 0 and not new_tokens
        at = where.at
        if at is None:
            return
        last = self._batch_last
        if last is not None and (not prefill or new_tokens == 0 or at - last > _LONG_GAP_S):
            self._finish_batches(where.line)
        if not prefill:
            return
        if self._batch_began is None:
            # The first chunk's own time is before its line: it counts for neither tokens nor time.
            self._batch_began = at
        else:
            self._batch_tokens += new_tokens
        self._batch_last = at

    def _finish_batches(self, line: int) -> None:
        if self._batch_began is not None and self._batch_last is not None and self._batch_tokens:
            self._keep(Prefill(line, self._batch_tokens, self._batch_last - self._batch_began, 1.0, 0.0))
        self._batch_began, self._batch_last, self._batch_tokens = None, None, 0.0

    def close(self, line: int) -> None:
        """End the stretches still open."""
        for engine in self._engines.values():
            self._finish(engine)
        self._finish_batches(line)

    @property
    def longest(self) -> Prefill | None:
        """The stretch with the most prompt tokens."""
        return max(self.prefills, key=lambda one: one.tokens, default=None)
