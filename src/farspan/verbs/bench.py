"""Send exact-length prompts to a server, check the answers and measure."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from farspan.errors import InputError
from farspan.launch.server_records import ServerRecord, StateFolder
from farspan.measurement.analysis.breaches import judge_run, refuse_without_plan
from farspan.measurement.analysis.point_values import parse_point_condition
from farspan.measurement.bench_result import BenchResult
from farspan.measurement.http.client import Limits
from farspan.measurement.http.wire import Api, PromptAs
from farspan.measurement.lengths import Lengths, parse_lengths
from farspan.measurement.observe.engine_observer import INTERVAL_S, EngineObserver
from farspan.measurement.observe.evidence import HUNG_AFTER_S
from farspan.measurement.options import TURN_TOKENS, BenchOptions, DryRun, plan_dry_run
from farspan.measurement.progress import Watcher
from farspan.measurement.resume import read_last_options
from farspan.measurement.run import run_bench, run_engines
from farspan.measurement.shared_length import SharedLength, parse_shared_length
from farspan.measurement.trace import read_trace
from farspan.sizes import parse_tokens
from farspan.verbs.known_server import add_what_is_known, find_known_server, keep_log


def bench(
    url: str | None = None,
    *,
    engines: Mapping[str, str] | None = None,
    fail_if: Sequence[str] = (),
    metrics_interval: float = INTERVAL_S,
    metrics_url: str | None = None,
    hang_after: float = HUNG_AFTER_S,
    watcher: Watcher | None = None,
    **options: Any,
) -> BenchResult:
    """Measure a server, or several one after another with the same prompts.

    Every finished request is on disk at once; when this is interrupted, `bench(run=..., resume=True)` goes on with what
    the run had: the server, the lengths and every other option that is not given anew.

    Args:
        url: The server's address, or the name under which farspan started it. Of such a server the tokenizer, the key,
            the flags, the plan and the log are taken from its record.
        engines: Several servers instead: name to address.
        fail_if: Conditions such as `ttft.p50 > 1.1 * plan`; `breaches` has those that hold.
        metrics_interval: Seconds between readings of the engine's metrics and of this machine's GPUs; 0 reads none.
        metrics_url: Where the engine's metrics are; /metrics on the server when None.
        hang_after: How long an engine must stand still with requests waiting to be called hung, in seconds.
        watcher: Its methods are called as the bench goes on.
        options: What to measure: see `bench_options`.

    Raises:
        InputError: An option or the run folder cannot be used, or the server will not take the lengths.
        NetworkError: The server does not answer.
    """
    return asyncio.run(
        bench_async(
            url,
            engines=engines,
            fail_if=fail_if,
            metrics_interval=metrics_interval,
            metrics_url=metrics_url,
            hang_after=hang_after,
            watcher=watcher,
            **options,
        )
    )


async def bench_async(
    url: str | None = None,
    *,
    engines: Mapping[str, str] | None = None,
    fail_if: Sequence[str] = (),
    metrics_interval: float = INTERVAL_S,
    metrics_url: str | None = None,
    hang_after: float = HUNG_AFTER_S,
    watcher: Watcher | None = None,
    **options: Any,
) -> BenchResult:
    """Measure as `bench` does, on the event loop that runs."""
    conditions = [parse_point_condition(text) for text in fail_if]
    if not 0 <= metrics_interval < math.inf:
        raise InputError(f"--metrics-interval is {metrics_interval:g}", "give seconds, or 0 for none")
    if options.get("resume") and _says_nothing(url, engines, options):
        wanted, engines = _read_resumed(options)
    elif (url is None) == (engines is None):
        if url is None:
            raise InputError(
                "no server is named", "give its address, its name in farspan status, or --engines"
            )
        raise InputError("--url and --engines both name servers", "give either --url or --engines")
    else:
        wanted = bench_options(url or next(iter((engines or {}).values()), ""), **options)
    known = KnownServers(watcher)
    wanted = wanted if engines else known.adapt(wanted)
    if wanted.plan is None:
        refuse_without_plan(conditions)
    observe = partial(
        EngineObserver, interval_s=metrics_interval, metrics_url=metrics_url, quiet_s=hang_after
    )
    try:
        if engines:
            outcomes = await run_engines(
                wanted,
                engines,
                watcher=watcher,
                make_observers=observe if metrics_interval else None,
                adapt=known.adapt,
            )
        else:
            observers = (observe(),) if metrics_interval else ()
            outcomes = {"": await run_bench(wanted, watcher=watcher, observers=observers)}
    finally:
        known.keep_logs()
    breaches = [
        breach
        for outcome in outcomes.values()
        for breach in judge_run(
            conditions, outcome.folder, outcome.info.starts[-1].server.owned_by, outcome.results
        )
    ]
    return BenchResult(wanted, outcomes, tuple(breaches))


class KnownServers:
    """The servers of a bench that farspan has started, and the run folders that their logs go to.

    Args:
        watcher: Told of a log that cannot be copied.
    """

    def __init__(self, watcher: Watcher | None) -> None:
        self._watcher = watcher or Watcher()
        self._found: dict[Path, ServerRecord] = {}

    def adapt(self, options: BenchOptions) -> BenchOptions:
        """Add what is known of the server to the options of its measurement; a name becomes its address."""
        record = find_known_server(options.url)
        if record is None:
            return options
        self._found[options.run] = record
        folder = StateFolder().folder
        return add_what_is_known(
            replace(options, url=record.url), record, lambda: folder / f"{record.name}.plan.json"
        )

    def keep_logs(self) -> None:
        """Copy the servers' logs into their run folders."""
        for folder, record in self._found.items():
            if folder.is_dir() and (why := keep_log(record, folder)):
                self._watcher.step(f"! {why}")


def bench_dry_run(url: str | None = None, **options: Any) -> DryRun:
    """Work out what `bench` would send, without asking any server.

    Raises:
        InputError: An option is out of range.
    """
    return plan_dry_run(bench_options(url or "", **options))


def bench_options(
    url: str,
    *,
    run: str | Path | None = None,
    contexts: Sequence[str | int] | None = None,
    lengths: str | Lengths | None = None,
    shared_prefix: str | SharedLength | None = None,
    trace: str | Path | None = None,
    concurrency: str | int | Sequence[int] | None = None,
    api: str | Api = Api.COMPLETIONS,
    prompt_as: str | PromptAs = PromptAs.IDS,
    rate: float | None = None,
    connect_timeout: float | None = 10.0,
    first_token_timeout: float | None = None,
    idle_timeout: float | None = None,
    time_limit: float | None = None,
    turn_tokens: str | int | None = None,
    think_time: float = 0.0,
    **further: Any,
) -> BenchOptions:
    """Read options as they are typed.

    Args:
        url: The server's address.
        run: The run folder; runs/ and the time when None.
        contexts: Prompt lengths as the server counts them: numbers, or text such as "10M".
        lengths: A distribution to draw them from instead, such as "lognormal:50k,0.7".
        shared_prefix: Send groups of requests whose prompts share their first tokens: "90%" of them, or "100k".
        trace: A file of requests with their times, lengths and shared blocks, sent instead.
        concurrency: Requests under way at a time; several, or "1,4,16", are gone through one after another.
        api: completions, chat, or SGLang's generate.
        prompt_as: ids or text.
        rate: Requests a second whether or not earlier ones are over; None or infinity is a closed loop.
        connect_timeout, first_token_timeout, idle_timeout: Seconds to wait; None waits for ever.
        time_limit: Seconds after which the whole run stops.
        turn_tokens: With turns, tokens that each adds of its own; 512 when None.
        think_time: With turns, seconds between an answer and the next turn.
        further: Of `BenchOptions`: depths, repeats, output_tokens, concurrency, tokenizer, seed, plan, resume ...

    Raises:
        InputError: One of them cannot be read.
    """
    if run is None and further.get("resume"):
        raise InputError("--resume does not say which run to go on with", "name its folder with --run")
    levels = _read_concurrency(concurrency)
    return BenchOptions(
        url=url,
        run=Path(run) if run is not None else default_run_folder(),
        contexts=tuple(parse_tokens(str(context)) for context in contexts or ()),
        lengths=parse_lengths(lengths) if isinstance(lengths, str) else lengths,
        shared_prefix=parse_shared_length(shared_prefix) if isinstance(shared_prefix, str) else shared_prefix,
        trace=None if trace is None else read_trace(Path(trace)),
        api=Api(api),
        prompt_as=PromptAs(prompt_as),
        limits=Limits(connect_timeout, first_token_timeout, idle_timeout),
        time_limit_s=time_limit,
        turn_tokens=TURN_TOKENS if turn_tokens is None else parse_tokens(str(turn_tokens)),
        think_time_s=think_time,
        concurrency=levels[0] if len(levels) == 1 else None,
        concurrencies=levels if len(levels) > 1 else (),
        rate=None if rate is not None and math.isinf(rate) else rate,  # vLLM's name for a closed loop
        **further,
    )


def _says_nothing(url: str | None, engines: Mapping[str, str] | None, options: Mapping[str, Any]) -> bool:
    """Tell whether neither a server nor lengths are given."""
    return url is None and engines is None and not any(map(options.get, ("contexts", "lengths", "trace")))


def _read_resumed(options: Mapping[str, Any]) -> tuple[BenchOptions, dict[str, str]]:
    """Return what the run in a folder had, with the options that are given anew."""
    anew = bench_options("", **options)
    had, engines = read_last_options(anew.run)
    given = {name: getattr(anew, name) for name in options if name in had.__dataclass_fields__}
    limits = {field: getattr(anew.limits, field) for name, field in _LIMIT_FIELDS.items() if name in options}
    if "concurrency" in options:
        given["concurrencies"] = anew.concurrencies
    for name in {"time_limit", "think_time"} & set(options):
        given[f"{name}_s"] = getattr(anew, f"{name}_s")
    return replace(had, **given | {"limits": replace(had.limits, **limits)}), engines


_LIMIT_FIELDS = {
    "connect_timeout": "connect_s",
    "first_token_timeout": "first_token_s",
    "idle_timeout": "idle_s",
}


def _read_concurrency(given: str | int | Sequence[int] | None) -> tuple[int, ...]:
    if given is None:
        return ()
    if isinstance(given, str):
        try:
            return tuple(dict.fromkeys(int(part) for part in given.split(",")))
        except ValueError:
            raise InputError(f"{given!r} is not a number of requests", "write it as 8 or 1,4,16,50") from None
    return (given,) if isinstance(given, int) else tuple(dict.fromkeys(given))


def default_run_folder() -> Path:
    """Return the folder of a run that nobody named: runs/ and the time."""
    return Path("runs") / datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
