"""Plan one SGLang server: what its start-up arithmetic gives for a request, and whether it fits."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from farspan.engines.sglang.defaults import Resolved
from farspan.engines.sglang.hicache import hicache_warnings
from farspan.engines.sglang.ledger import (
    load_lines,
)
from farspan.engines.sglang.printed import printed_figures
from farspan.engines.sglang.settle import (
    NoPool,
    Server,
    Settings,
    SettledServer,
    hopeless,
    prepare,
    verdict_of,
)
from farspan.engines.sglang.state import SglangState, make_ledger
from farspan.engines.sglang.warnings import start_warnings
from farspan.planner.ledger import LedgerPhase, MemoryLedger
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.timing import estimate_time
from farspan.sizes import format_bytes


def plan_sglang(request: PlanRequest) -> EnginePlan:
    """What SGLang would do with a request.

    Flags given by hand are planned as they are. Where none of them touches SGLang's memory and the defaults
    do not fit, the plan adds the flags that cure it, and says so (not with `request.as_given`).

    Raises:
        InputError: Unknown version, a flag SGLang refuses or farspan does not mirror, a TP size or context
            the model does not allow, an architecture this version does not implement.
    """
    return _settle(request, outline=False)


def outline_sglang(request: PlanRequest) -> EnginePlan:
    """The same plan without ledger, printed figures and warnings, for sweeps and searches.

    Raises:
        InputError: As `plan_sglang`.
    """
    return _settle(request, outline=True)


def _settle(request: PlanRequest, *, outline: bool) -> EnginePlan:
    """Plan with the flags given; with the first cure that serves where these say nothing of memory."""
    server = prepare(request)
    added: tuple[str, ...] = ()
    verdict = None if hopeless(server) else verdict_of(server)
    if (verdict is None or not verdict.fits) and not request.as_given and server.settings.open_to_cures:
        verdict, added = _cured(server, verdict)
    plan = _answer(verdict or verdict_of(server), added, outline=outline)
    if not added or outline:
        return plan
    why = _answer(verdict_of(server), (), outline=True).reason
    note = f"SGLang's defaults do not serve this request ({why}): farspan adds {' '.join(added)}."
    return replace(plan, warnings=(note, *plan.warnings))


def _cured(server: Server, first: SettledServer | None) -> tuple[SettledServer | None, tuple[str, ...]]:
    """The first cure that serves; else the last, if the server then at least starts and did not before; else
    the server as it was."""
    request = server.request
    last = server
    added: dict[str, str | None] = {}
    for added in cures(request.concurrency, windowed=server.settings.layout.window_layers > 0):
        last = prepare(request.with_flags({**request.engine_flags, **added}))
        verdict = None if hopeless(last) else verdict_of(last)
        if verdict is not None and verdict.fits:
            return verdict, _words(added)
    verdict = verdict_of(last)
    if verdict.starts and not (first or verdict_of(server)).starts:
        return verdict, _words(added)
    return first, ()


def _words(flags: dict[str, str | None]) -> tuple[str, ...]:
    return tuple([f"{name} {value}" for name, value in flags.items()])


@lru_cache(maxsize=64)
def cures(concurrency: int, *, windowed: bool) -> tuple[dict[str, str | None], ...]:
    """Flags to try in turn when the defaults do not serve: fewer rows, then a smaller window pool too, where
    window layers have one."""
    rows: dict[str, str | None] = {"--max-running-requests": str(max(8, concurrency))}
    return (rows, {**rows, "--swa-full-tokens-ratio": "0.05"}) if windowed else (rows,)


def _answer(verdict: SettledServer, added: tuple[str, ...], *, outline: bool) -> EnginePlan:
    """The plan a verdict stands for; `added` are the flags nobody gave."""
    state, starts, fits, settings = verdict
    if isinstance(state, NoPool):
        return _no_pool(state, settings.notes)
    request, frame, limits = state.request, state.frame, state.limits
    sizes = frame.sizes
    runs = state.left_running >= 0
    pools = {"full": sizes.full_tokens}
    if sizes.window_tokens:
        pools["window"] = sizes.window_tokens
    if sizes.state_slots:
        pools["state slots"] = sizes.state_slots
    # The lines name what breaks; a plan that fits needs them only to be shown.
    shown = not outline or not starts or not runs
    ledger = make_ledger(state) if shown else MemoryLedger((), request.gpu.memory_bytes)
    return EnginePlan(
        engine="sglang",
        version=frame.rules.version,
        starts=starts,
        fits=fits,
        reason=_reason(state, ledger, starts=starts, fits=fits),
        weights_bytes=frame.load.weights_bytes,
        available_kv_bytes=int(frame.available),
        capacity_tokens=limits.longest_request,
        max_concurrency=limits.concurrency,
        printed={}
        if outline
        else printed_figures(
            frame.rules,
            state.resolved,
            frame.layout,
            sizes,
            state.rows,
            frame.given.max_prefill_tokens,
            ledger,
        ),
        pools=pools,
        ledger=ledger,
        flags=server_flags(request, state.resolved, settings),
        warnings=settings.notes if outline else (*settings.notes, *_warnings(state)),
        time=estimate_time(
            request.model,
            request.gpu,
            tp=request.tp,
            engine="sglang",
            version=frame.rules.version,
            prompt_tokens=max(1, request.context - request.output_tokens),
            output_tokens=request.output_tokens,
            kv_dtype=state.resolved.kv_dtype,
            backend=state.resolved.attention_backend,
            chunk=state.resolved.chunked_prefill_size,
            prefix_tree=frame.given.radix_cache,
        ),
        env=dict(settings.env),
        added=added,
    )


def _warnings(state: SglangState) -> tuple[str, ...]:
    frame = state.frame
    hybrid = frame.layout.window_layers > 0
    return (
        *start_warnings(
            state.request,
            frame.rules,
            frame.given,
            state.resolved,
            frame.layout,
            frame.load,
            frame.sizes,
            state.rows,
            state.limits,
            state.left_started,
        ),
        *hicache_warnings(frame.given, state.resolved, state.request.model, hybrid, frame.rules),
    )


def _reason(state: SglangState, ledger: MemoryLedger, *, starts: bool, fits: bool) -> str:
    """One sentence: why it fits, or what breaks it and by how much."""
    request, limits, left = state.request, state.limits, state.left_started
    pool = f"{state.frame.sizes.full_tokens:,} tokens"
    if fits:
        return (
            f"{request.context:,} tokens fit {limits.concurrency:.2f} times in a pool of {pool}, "
            f"{format_bytes(left)} free once started"
        )
    if state.refusal:
        return state.refusal
    if not starts:
        breaker = ledger.first_overflow()
        name = breaker.name if breaker else "the last allocation"
        largest = max(
            (
                line
                for line in ledger
                if line.when in (LedgerPhase.POOL, LedgerPhase.GRAPHS) and "KV pool" not in line.name
            ),
            key=lambda line: 0 if line.on_host else line.bytes,
        )
        return (
            f"{format_bytes(-left)} short while starting, at {name}: the {largest.name} takes "
            f"{format_bytes(largest.bytes)} outside --mem-fraction-static"
        )
    if request.context > state.resolved.context_length:
        return f"--context-length {state.resolved.context_length:,} is below {request.context:,} tokens"
    if limits.longest_request + 2 < request.context:
        if limits.hangs_above:
            return (
                f"a prompt above the window pool's {limits.hangs_above:,} tokens waits for ever: admission "
                "up to 0.5.10 needs room for all of it there"
            )
        lacking = request.context - state.frame.sizes.full_tokens
        return f"it starts, but the pool holds {pool}, {lacking:,} too few for one request"
    if state.left_running < 0:
        breaker = ledger.first_overflow()
        return (
            f"it starts, and runs out by {format_bytes(-state.left_running)} during the prompt, at "
            f"{breaker.name if breaker else 'run time'}"
        )
    if limits.concurrency >= state.rows:
        return f"--max-running-requests {state.rows} is below {request.concurrency} requests"
    return f"the pool of {pool} holds {limits.concurrency:.2f} requests of {request.context:,}"


def server_flags(request: PlanRequest, resolved: Resolved, settings: Settings) -> tuple[str, ...]:
    """The server's arguments, ready to paste; flags given by hand are passed through."""
    words = ["--tp-size", str(request.tp), "--context-length", str(resolved.context_length)]
    if resolved.kv_dtype.value != "auto":
        words += ["--kv-cache-dtype", resolved.kv_dtype.value]
    return (*words, *settings.passed_on)


def _no_pool(stopped: NoPool, notes: tuple[str, ...]) -> EnginePlan:
    """The plan of a server that stops while sizing its pools."""
    request, rules, load = stopped.request, stopped.rules, stopped.load
    lines = load_lines(load, request.model, request.tp, stopped.resolved, rules)
    return EnginePlan(
        engine="sglang",
        version=rules.version,
        starts=False,
        fits=False,
        reason=str(stopped.error),
        weights_bytes=load.weights_bytes,
        available_kv_bytes=max(0, int(stopped.available)),
        capacity_tokens=0,
        max_concurrency=0.0,
        printed={},
        pools={},
        ledger=MemoryLedger(lines, request.gpu.memory_bytes),
        flags=(),
        warnings=notes,
    )
