"""Plan one SGLang server: what its start-up arithmetic gives for a request, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from farspan.errors import InputError
from farspan.hardware.gpu import Gpu
from farspan.models.spec import KvDtype, ModelSpec
from farspan.planner.ledger import MemoryLedger, Phase
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.sglang.defaults import LONG_CONTEXT, Resolved, resolve, with_context
from farspan.planner.sglang.flags import GivenFlags, read_flags
from farspan.planner.sglang.hicache import hicache_warnings
from farspan.planner.sglang.ledger import (
    LoadSizes,
    load_lines,
    load_sizes,
)
from farspan.planner.sglang.pool import (
    KvLayout,
    PoolError,
    is_hybrid,
    kv_layout,
)
from farspan.planner.sglang.printed import printed_figures
from farspan.planner.sglang.state import Frame, SglangState, build_state, kv_bytes, make_frame, make_ledger
from farspan.planner.sglang.tables import rope_bytes
from farspan.planner.sglang.versions import KNOWN_VERSIONS, SglangRules, rules_of
from farspan.planner.sglang.warnings import start_warnings
from farspan.planner.timing import estimate_time
from farspan.planner.versions import resolve_version
from farspan.sizes import format_bytes

_OWN_FLAGS = ("--tp-size", "--tensor-parallel-size", "--tp", "--context-length", "--kv-cache-dtype")


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
    """Plan with the flags given; with the cures where these say nothing of memory and do not serve."""
    first = verdict = _verdict(request)
    added: tuple[str, ...] = ()
    if not verdict.fits and not request.as_given and _settings_of(request).open_to_cures:
        for flags in cures(request.concurrency):
            cured = _verdict(request.with_flags({**request.engine_flags, **flags}))
            if cured.fits or (cured.starts and not verdict.starts):
                verdict, added = cured, tuple(f"{name} {value}" for name, value in flags.items())
            if verdict.fits:
                break
    plan = _answer(verdict, added, outline=outline)
    if not added or outline:
        return plan
    why = _answer(first, (), outline=True).reason
    note = f"SGLang's defaults do not serve this request ({why}): farspan adds {' '.join(added)}."
    return replace(plan, warnings=(note, *plan.warnings))


@lru_cache(maxsize=64)
def cures(concurrency: int) -> tuple[dict[str, str | None], ...]:
    """Flags to try in turn when the defaults do not serve: fewer rows, then a smaller window pool too."""
    rows: dict[str, str | None] = {"--max-running-requests": str(max(8, concurrency))}
    return rows, {**rows, "--swa-full-tokens-ratio": "0.05"}


class _Verdict(NamedTuple):
    """One set of flags: the server, or why its pools could not be sized, and what it does."""

    state: SglangState | _NoPool
    starts: bool
    fits: bool
    notes: tuple[str, ...]


class _NoPool(NamedTuple):
    """A server that stops while sizing its pools."""

    request: PlanRequest
    rules: SglangRules
    resolved: Resolved
    load: LoadSizes
    available: float
    error: PoolError


@dataclass(frozen=True, slots=True, eq=False)
class _Settings:
    """What does not depend on the context: worked out once for a sweep. Compared and hashed by identity.

    `open_to_cures` says that the flags given leave SGLang's memory as its defaults have it, so that farspan
    may add flags; a server that somebody sized by hand is planned as it is.
    """

    rules: SglangRules
    given: GivenFlags
    resolved: Resolved
    layout: KvLayout
    open_to_cures: bool
    notes: tuple[str, ...]

    def decisive(self, model: ModelSpec, context_length: int) -> int:
        """`context_length` where loading or the split of the pools depends on it, else 0."""
        reserved = any(
            rope_bytes(rope, context_length) > rope.positions * rope.rotary_dim * 4 for rope in model.ropes
        )
        return context_length if reserved or self.given.hybrid_ratio is not None else 0


def _settings_of(request: PlanRequest) -> _Settings:
    return _settings(
        tuple(request.engine_flags.items()),
        request.model,
        request.gpu,
        request.tp,
        request.kv_dtype,
        request.engine_version,
        request.accept_nearest_version,
        request.context > LONG_CONTEXT,
    )


@lru_cache(maxsize=64)
def _settings(
    flags: tuple[tuple[str, str | None], ...],
    model: ModelSpec,
    gpu: Gpu,
    tp: int,
    kv_dtype: KvDtype,
    version: str,
    accept_nearest: bool,
    long_context: bool,
) -> _Settings:
    chosen = resolve_version("sglang", version, KNOWN_VERSIONS, accept_nearest=accept_nearest)
    rules = rules_of(chosen.version)
    if model.architecture in rules.missing:
        raise InputError(
            f"sglang {rules.version} has no implementation of {model.architecture}",
            "choose a newer --engine-version, or plan it for vLLM",
        )
    model.check_tp(tp)
    asked = PlanRequest(model, gpu, tp, tp, 0, kv_dtype=kv_dtype, engine_flags=dict(flags))
    given = read_flags(asked, rules)
    untouched = read_flags(asked.with_flags({}), rules)
    resolved = resolve(given, model, gpu, tp, rules, long_context=long_context)
    hybrid = is_hybrid(model, rules, ratio=given.hybrid_ratio, off=given.hybrid_off)
    return _Settings(
        rules=rules,
        given=given,
        resolved=resolved,
        layout=kv_layout(model, resolved.kv_dtype, tp, rules, hybrid=hybrid),
        open_to_cures=given
        == untouched._replace(context_length=given.context_length, kv_dtype=given.kv_dtype),
        notes=(chosen.warning,) if chosen.warning else (),
    )


@lru_cache(maxsize=256)
def _frame(
    settings: _Settings,
    model: ModelSpec,
    gpu: Gpu,
    tp: int,
    available_kv_bytes: int | None,
    context_length: int,
) -> Frame:
    """The pools of a server; `context_length` is 0 where nothing in them depends on it."""
    resolved = settings.resolved._replace(context_length=context_length)
    return make_frame(
        model, gpu, tp, available_kv_bytes, settings.rules, settings.given, resolved, settings.layout
    )


def _verdict(request: PlanRequest) -> _Verdict:
    """Judge a request with exactly its flags."""
    model, gpu, tp = request.model, request.gpu, request.tp
    settings = _settings_of(request)
    resolved = with_context(settings.resolved, settings.given, model, request.context)
    decisive = settings.decisive(model, resolved.context_length)
    try:
        frame = _frame(settings, model, gpu, tp, request.available_kv_bytes, decisive)
    except PoolError as error:
        load = load_sizes(model, gpu, tp, resolved)
        available = kv_bytes(request.available_kv_bytes, load, resolved, settings.rules)
        stopped = _NoPool(request, settings.rules, resolved, load, available, error)
        return _Verdict(stopped, starts=False, fits=False, notes=settings.notes)
    state = build_state(request, resolved, frame)
    limits = state.limits
    starts = state.left_started >= 0 and not state.refusal and state.rows > 0
    holds = limits.longest_request + 2 >= request.context and request.context <= resolved.context_length
    fits = starts and state.left_running >= 0 and holds and limits.concurrency >= request.concurrency
    return _Verdict(state, starts, fits, settings.notes)


def _answer(verdict: _Verdict, added: tuple[str, ...], *, outline: bool) -> EnginePlan:
    """The plan a verdict stands for; `added` are the flags nobody gave."""
    state, starts, fits, notes = verdict
    if isinstance(state, _NoPool):
        return _no_pool(state, notes)
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
        flags=server_flags(request, state.resolved),
        warnings=notes if outline else (*notes, *_warnings(state)),
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
                if line.when in (Phase.POOL, Phase.GRAPHS) and "KV pool" not in line.name
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
        return f"the pool holds {pool}, {request.context - state.frame.sizes.full_tokens:,} too few for one request"
    if state.left_running < 0:
        breaker = ledger.first_overflow()
        return (
            f"it starts, and runs out by {format_bytes(-state.left_running)} during the prompt, at "
            f"{breaker.name if breaker else 'run time'}"
        )
    if limits.concurrency >= state.rows:
        return f"--max-running-requests {state.rows} is below {request.concurrency} requests"
    return f"the pool of {pool} holds {limits.concurrency:.2f} requests of {request.context:,}"


def server_flags(request: PlanRequest, resolved: Resolved) -> tuple[str, ...]:
    """The server's arguments, ready to paste; flags given by hand are passed through."""
    words = ["--tp-size", str(request.tp), "--context-length", str(resolved.context_length)]
    if resolved.kv_dtype.value != "auto":
        words += ["--kv-cache-dtype", resolved.kv_dtype.value]
    for name, value in request.engine_flags.items():
        if name in _OWN_FLAGS:
            continue
        words.append(name)
        if value is not None:
            words += value.split() if name.startswith("--cuda-graph-bs") else [value]
    return tuple(words)


def _no_pool(stopped: _NoPool, notes: tuple[str, ...]) -> EnginePlan:
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
