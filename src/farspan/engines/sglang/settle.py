"""One set of flags judged: settings that hold for a whole sweep, pools sized once, then what a context does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from farspan.engines.sglang.defaults import LONG_CONTEXT, Resolved, resolve, with_context
from farspan.engines.sglang.flags import SglangFlags, passed_on, read_flags
from farspan.engines.sglang.ledger import LoadSizes, load_sizes
from farspan.engines.sglang.pool import PoolError, SglangKvLayout, is_hybrid, kv_layout
from farspan.engines.sglang.state import SglangFrame, SglangState, build_state, kv_bytes, make_frame
from farspan.engines.sglang.tables import request_rows, request_table_bytes, rope_covers
from farspan.engines.sglang.versions import KNOWN_VERSIONS, SglangRules, rules_of
from farspan.errors import InputError
from farspan.hardware.gpu import Gpu
from farspan.models.spec import KvDtype, ModelSpec
from farspan.planner.engine_flags import split_environment
from farspan.planner.request import PlanRequest
from farspan.planner.versions import resolve_version
from farspan.value_hash import ValueHash


class SettledServer(NamedTuple):
    """One set of flags: the server, or why its pools could not be sized, and what it does."""

    state: SglangState | NoPool
    starts: bool
    fits: bool
    settings: Settings


class NoPool(NamedTuple):
    """A server that stops while sizing its pools."""

    request: PlanRequest
    rules: SglangRules
    resolved: Resolved
    load: LoadSizes
    available: float
    error: PoolError


@dataclass(frozen=True, slots=True)
class Settings(ValueHash):
    """What does not depend on the context: worked out once for a sweep. Compared by value and hashed once.

    Args:
        rules: The version's rules.
        given: Flags as given.
        resolved: Flags once SGLang's defaults are filled in, without the context length.
        layout: Bytes a token.
        rope_covers: A context up to which no RoPE table is grown.
        open_to_cures: Whether the flags given leave SGLang's memory as its defaults have it, so that farspan
            may add flags; a server that somebody sized by hand is planned as it is.
        notes: Warnings about the version.
        passed_on: Words of the flags farspan does not write itself, as given.
        env: Environment variables, name and value, as given.
    """

    rules: SglangRules
    given: SglangFlags
    resolved: Resolved
    layout: SglangKvLayout
    rope_covers: int
    open_to_cures: bool
    notes: tuple[str, ...]
    passed_on: tuple[str, ...]
    env: tuple[tuple[str, str], ...]

    __hash__ = ValueHash.__hash__

    def decisive(self, context_length: int) -> int:
        """`context_length` where loading or the split of the pools depends on it, else 0."""
        follows = context_length > self.rope_covers or self.given.hybrid_ratio is not None
        return context_length if follows else 0


def _settings_of(request: PlanRequest) -> Settings:
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
) -> Settings:
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
    return Settings(
        rules=rules,
        given=given,
        resolved=resolved,
        layout=kv_layout(model, resolved.kv_dtype, tp, rules, hybrid=hybrid),
        rope_covers=min((rope_covers(rope) for rope in model.ropes), default=model.max_position_embeddings),
        open_to_cures=given
        == untouched._replace(context_length=given.context_length, kv_dtype=given.kv_dtype),
        notes=(chosen.warning,) if chosen.warning else (),
        passed_on=passed_on(asked.engine_flags),
        env=tuple(split_environment(asked.engine_flags)[1].items()),
    )


@lru_cache(maxsize=256)
def _frame(
    settings: Settings,
    model: ModelSpec,
    gpu: Gpu,
    tp: int,
    available_kv_bytes: int | None,
    context_length: int,
) -> SglangFrame:
    """The pools of a server; `context_length` is 0 where nothing in them depends on it."""
    resolved = settings.resolved._replace(context_length=context_length)
    return make_frame(
        model, gpu, tp, available_kv_bytes, settings.rules, settings.given, resolved, settings.layout
    )


class Server(NamedTuple):
    """One set of flags with its pools sized, or why they cannot be."""

    request: PlanRequest
    settings: Settings
    resolved: Resolved
    frame: SglangFrame | PoolError


def prepare(request: PlanRequest) -> Server:
    """Read the flags and size the pools.

    Raises:
        InputError: As `plan_sglang`.
    """
    settings = _settings_of(request)
    resolved = with_context(settings.resolved, settings.given, request.model, request.context)
    decisive = settings.decisive(resolved.context_length)
    frame: SglangFrame | PoolError
    try:
        frame = _frame(settings, request.model, request.gpu, request.tp, request.available_kv_bytes, decisive)
    except PoolError as error:
        frame = error
    return Server(request, settings, resolved, frame)


def hopeless(server: Server) -> bool:
    """Whether the pool, or the request table beside it, rules the request out before anything else is
    counted: most sets of flags that are tried for a long context."""
    request, frame, length = server.request, server.frame, server.resolved.context_length
    if isinstance(frame, PoolError) or frame.sizes.full_tokens < request.context:
        return True
    asked = frame.given.max_running_requests
    rows = request_rows(frame.sizes.row_tokens, length, asked, frame.rules, frame.state_cap)
    return frame.fixed + request_table_bytes(rows, length, frame.rules) > request.gpu.memory_bytes


def verdict_of(server: Server) -> SettledServer:
    """Judge a request with exactly its flags."""
    request, settings, resolved, frame = server
    if isinstance(frame, PoolError):
        load = load_sizes(request.model, request.gpu, request.tp, resolved, settings.given.cpu_offload_bytes)
        available = kv_bytes(request.available_kv_bytes, load, resolved, settings.rules)
        stopped = NoPool(request, settings.rules, resolved, load, available, frame)
        return SettledServer(stopped, starts=False, fits=False, settings=settings)
    state = build_state(request, resolved, frame)
    limits = state.limits
    starts = state.left_started >= 0 and not state.refusal and state.rows > 0
    holds = limits.longest_request + 2 >= request.context and request.context <= resolved.context_length
    fits = starts and state.left_running >= 0 and holds and limits.concurrency >= request.concurrency
    return SettledServer(state, starts, fits, settings)
