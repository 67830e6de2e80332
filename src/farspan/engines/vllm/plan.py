"""What vLLM would do with a request, by version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from farspan.engines.vllm.budget import gib, kv_budget
from farspan.engines.vllm.config import VllmConfig, config_of
from farspan.engines.vllm.defaults import batch_limits
from farspan.engines.vllm.flags import CHUNKED_HYBRID_ENV, MAX_MODEL_LEN, MAX_NUM_SEQS
from farspan.engines.vllm.kv_groups import GroupingError
from farspan.engines.vllm.ledger import make_ledger
from farspan.engines.vllm.printed import printed_figures
from farspan.engines.vllm.refusals import refusal
from farspan.engines.vllm.remarks import find_remarks
from farspan.engines.vllm.speculative import DRAFT_MODEL
from farspan.engines.vllm.state import VllmState, build_state
from farspan.models.spec import KvDtype
from farspan.planner.ledger import MemoryLedger
from farspan.planner.remarks import Remarks
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.settle import settle
from farspan.planner.timing import estimate_time

# Fewer requests at once, tried in turn when the default's block tables would not fit beside the pool.
_FEWER_REQUESTS = (256, 64, 16, 8, 4, 2, 1)


class _Verdict(NamedTuple):
    """A server, why it does not start (empty when it does), and whether it holds what was asked."""

    state: VllmState
    refusal: str
    fits: bool


def plan_vllm(request: PlanRequest) -> EnginePlan:
    """What vLLM would do with a request.

    Where a default keeps a request from fitting and an environment variable or `--max-num-seqs` cures it, the
    plan sets it and says so (not with `request.as_given`); a flag given by hand is never changed.

    Raises:
        InputError: Unknown version, a flag vLLM refuses or farspan does not mirror, a TP size the model does
            not allow, a kind of attention whose cache is not mirrored.
    """
    return _plan(request, outline=False)


def outline_vllm(request: PlanRequest) -> EnginePlan:
    """The same plan without ledger and remarks, several times as fast: for sweeps and searches.

    Raises:
        InputError: As `plan_vllm`.
    """
    return _plan(request, outline=True)


def _plan(request: PlanRequest, *, outline: bool) -> EnginePlan:
    config = config_of(request)
    try:
        given = chosen = _with_requests(request, config, allow_env=False)
        if given.state.memory.hybrid.env_decides and not request.as_given:
            # One that holds more is worth showing, though it does not hold enough.
            chosen = settle(
                given,
                (_with_requests(request, config, allow_env=allowed) for allowed in (True,)),
                serves=lambda verdict: verdict.fits,
                improves=lambda last: last.state.memory.capacity > given.state.memory.capacity,
            )
    except GroupingError as error:
        return _ungrouped(request, config, str(error))
    return _answer(chosen, outline=outline)


def _with_requests(request: PlanRequest, config: VllmConfig, *, allow_env: bool) -> _Verdict:
    """Judge a server; with fewer requests at once when the defaults do not fit the card.

    `--max-num-seqs` given by hand is taken at its word, and so is a memory fraction above the default; no other flag
    keeps the plan from adding it.

    Raises:
        GroupingError: vLLM cannot group the layers.
    """
    state = build_state(request, config, allow_env=allow_env)
    raised = (config.given.gpu_memory_utilization or 0) > config.rules.default_utilization
    cramped = state.states_lacking > 0 or (state.lacking > 0 and not raised)
    if cramped and config.given.max_num_seqs is None and not request.as_given:
        default = state.limits.requests
        state = settle(
            state,
            (
                build_state(request, config, allow_env=allow_env, requests=requests)
                for requests in _FEWER_REQUESTS
                if request.concurrency <= requests < default
            ),
            serves=lambda fewer: fewer.lacking <= 0 and not fewer.states_lacking,
        )
    return _judge(state)


def _judge(state: VllmState) -> _Verdict:
    """Judge a server with exactly its flags."""
    request, why = state.request, refusal(state)
    fits = (
        not why
        and request.context <= state.max_model_len
        and state.limits.requests >= request.concurrency
        and state.holds >= request.concurrency
    )
    return _Verdict(state, why, fits)


def _answer(verdict: _Verdict, *, outline: bool) -> EnginePlan:
    """The plan a verdict stands for."""
    state = verdict.state
    request, remarks = state.request, state.config.remarks
    if not outline:
        remarks = Remarks.join((remarks, find_remarks(state, starts=not verdict.refusal)))
    return EnginePlan(
        engine="vllm",
        version=state.rules.version,
        starts=not verdict.refusal,
        fits=verdict.fits,
        reason=verdict.refusal or _reason(state, fits=verdict.fits),
        weights_bytes=state.memory.budget.loaded,
        available_kv_bytes=max(state.memory.shown_available, 0),
        capacity_tokens=state.memory.capacity,
        max_concurrency=state.max_concurrency,
        printed=printed_figures(state, starts=not verdict.refusal),
        pools={"token slots": state.memory.num_blocks * state.layout.block_size},
        ledger=MemoryLedger((), request.gpu.memory_bytes) if outline else make_ledger(state),
        flags=server_flags(state),
        env=_env(state),
        warnings=remarks.warnings,
        notes=remarks.notes,
        time=estimate_time(
            request.model,
            request.gpu,
            tp=request.tp,
            engine="vllm",
            version=state.rules.version,
            prompt_tokens=max(1, request.context - request.output_tokens),
            output_tokens=request.output_tokens,
            kv_dtype=state.memory.kv_dtype,
            chunk=state.limits.tokens,
            eager=state.config.given.enforce_eager,
            calibration=state.config.calibration,
        ),
        added=_added(state),
        request_kv_bytes=state.request_kv_bytes,
        request_kv_reason=_kv_reason(state),
        conditions=state.config.conditions,
        calibration=state.config.calibration,
    )


def _kv_reason(state: VllmState) -> str:
    """Why a request keeps more than its model's layers need; empty where it does not."""
    if state.keeps_all_tokens:
        return f"hybrid KV groups are off ({state.memory.hybrid.off_because})"
    given = state.config.given
    draft = given.draft if given.speculative == DRAFT_MODEL else ""
    return f"{draft} keeps its own KV of every token beside the model's" if draft else ""


def _reason(state: VllmState, *, fits: bool) -> str:
    """One sentence about a server that starts."""
    request = state.request
    if request.context > state.max_model_len:
        return f"{MAX_MODEL_LEN} {state.max_model_len} is below the {request.context:,} tokens asked for"
    if state.limits.requests < request.concurrency:
        return f"{MAX_NUM_SEQS} {state.limits.requests} is below {request.concurrency} requests"
    pool = f"{gib(state.memory.num_blocks * state.layout.bytes_per_block)} of KV cache"
    held = f"{state.max_concurrency:.2f} requests of {request.context:,} tokens"
    if fits:
        return f"{pool} holds {held}; the longest single request is {state.memory.capacity:,} tokens"
    if state.memory.capacity < request.context:
        return (
            f"{pool} holds one request of {state.memory.capacity:,} tokens, "
            f"{request.context - state.memory.capacity:,} fewer than asked for"
        )
    return f"{pool} holds {held}, not {request.concurrency}"


def server_flags(state: VllmState) -> tuple[str, ...]:
    """The server's arguments, ready to paste, numbers in digits; flags given by hand are passed through."""
    words = ["--tensor-parallel-size", str(state.request.tp), MAX_MODEL_LEN, str(state.max_model_len)]
    if state.config.given.kv_dtype is not KvDtype.AUTO:
        words += ["--kv-cache-dtype", state.config.given.kv_dtype.value]
    if state.config.given.max_num_seqs is not None or state.requests_chosen:
        words += [MAX_NUM_SEQS, str(state.limits.requests)]
    if state.request.model.config_overrides:
        words += ["--hf-overrides", state.request.model.config_overrides]
    return (*words, *state.config.given.passed_on)


def _env(state: VllmState) -> Mapping[str, str]:
    env = dict(state.config.given.env)
    return {**env, CHUNKED_HYBRID_ENV: "1"} if state.memory.env_chosen else env


def _added(state: VllmState) -> tuple[str, ...]:
    """What the plan sets though nobody asked for it."""
    added = [f"{CHUNKED_HYBRID_ENV}=1"] if state.memory.env_chosen else []
    if state.requests_chosen:
        added.append(f"{MAX_NUM_SEQS} {state.limits.requests}")
    return tuple(added)


def _ungrouped(request: PlanRequest, config: VllmConfig, reason: str) -> EnginePlan:
    """The plan of a server whose layers vLLM cannot group."""
    length = config.given.max_model_len or request.context
    budget = kv_budget(config, batch_limits(config.given, config.gpu, length, config.rules))
    return EnginePlan(
        engine="vllm",
        version=config.rules.version,
        starts=False,
        fits=False,
        reason=reason,
        weights_bytes=budget.loaded,
        available_kv_bytes=max(budget.available, 0),
        capacity_tokens=0,
        max_concurrency=0.0,
        printed={},
        pools={},
        ledger=MemoryLedger((), request.gpu.memory_bytes),
        flags=(),
        warnings=config.remarks.warnings,
        notes=config.remarks.notes,
    )
