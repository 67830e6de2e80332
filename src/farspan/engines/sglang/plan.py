"""Plan one SGLang server: what its start-up arithmetic gives for a request, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from farspan.engines.sglang.config import SglangConfig
from farspan.engines.sglang.elastic_figures import elastic_figures
from farspan.engines.sglang.flags import FRACTION, MAX_REQUESTS, PIPELINE, attention_groups
from farspan.engines.sglang.ledger import load_lines, make_ledger
from farspan.engines.sglang.printed import printed_figures
from farspan.engines.sglang.remarks import find_remarks
from farspan.engines.sglang.state import SglangServer, SglangState, build_state, is_hopeless, size_server
from farspan.errors import InputError
from farspan.models.pipeline_stage import stage_models
from farspan.planner.ledger import LedgerPhase, MemoryLedger
from farspan.planner.remarks import Remarks
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.settle import settle
from farspan.planner.timing import estimate_time
from farspan.sizes import format_bytes

_MOVE_THE_FRACTION = (
    "--chunked-prefill-size",
    "--max-prefill-tokens",
    "--cuda-graph-max-bs",
    "--cuda-graph-max-bs-decode",
    "--cuda-graph-bs",
    "--cuda-graph-bs-decode",
)
_FRACTIONS = ("0.90", "0.85", "0.80", "0.70")


def plan_sglang(request: PlanRequest) -> EnginePlan:
    """What SGLang would do with a request.

    Flags given by hand are never changed. Where they and the defaults do not fit, the plan adds the flags that
    cure it and that nobody gave, and says so (not with `request.as_given`).

    Raises:
        InputError: Unknown version, a flag SGLang refuses or farspan does not mirror, a TP size or context
            the model does not allow, an architecture this version does not implement.
    """
    return _plan_shared(request, outline=False)


def outline_sglang(request: PlanRequest) -> EnginePlan:
    """The same plan without ledger, printed figures and remarks, for sweeps and searches.

    Raises:
        InputError: As `plan_sglang`.
    """
    return _plan_shared(request, outline=True)


class _Attempt:
    """A server with flags that farspan may have added to those given.

    Args:
        request: The question with its flags.
        added: What farspan adds to them.
    """

    __slots__ = ("_state", "added", "fits", "server")

    def __init__(self, request: PlanRequest, added: dict[str, str | None] | None = None) -> None:
        if added is None:
            self.added: tuple[str, ...] = ()
            self.server = size_server(request)
        else:
            self.added = tuple([f"{name} {value}" for name, value in added.items()])
            self.server = size_server(request.with_flags({**request.engine_flags, **added}))
        self._state = None if is_hopeless(self.server) else build_state(self.server)
        self.fits = self._state is not None and self._state.fits

    @property
    def state(self) -> SglangState | None:
        """Everything of the server; None when SGLang stops while sizing its pools."""
        if self._state is None and not self.server.memory.stops:
            self._state = build_state(self.server)
        return self._state

    @property
    def starts(self) -> bool:
        """Whether it starts at all."""
        return self.state is not None and self.state.starts


def _plan_shared(request: PlanRequest, *, outline: bool) -> EnginePlan:
    """Plan the server whose room decides: one pipeline stage, one group of data-parallel attention."""
    if not request.engine_flags:
        return _plan(request, outline=outline)
    stages, groups = request.int_flag(1, *PIPELINE), attention_groups(request)
    if stages == groups == 1:
        return _plan(request, outline=outline)
    one = replace(request, concurrency=-(-request.concurrency // groups))
    notes = []
    if stages > 1:
        one = _tightest_stage(one, stages)
        notes.append(
            f"Of {stages} pipeline stages the one with the least room decides; the figures are its own, and times are "
            f"those of one stage of {request.tp} GPUs: stages take turns on a token and overlap on a long prompt."
        )
    if groups > 1:
        notes.append(
            f"Data-parallel attention: {groups} groups of {request.tp // groups} ranks, each with a KV cache of its "
            "own; the longest request is that of one group, and concurrency is that of all."
        )
    plan = _plan(one, outline=outline)
    shown = plan.notes if outline else (*plan.notes, *notes)
    return replace(plan, max_concurrency=plan.max_concurrency * groups, notes=shown)


def _tightest_stage(request: PlanRequest, stages: int) -> PlanRequest:
    """The question about the stage that holds the fewest tokens: all stages keep as many (the pools' sizes are
    reduced to the least of all ranks). The last stages have one layer more where they do not divide evenly.

    Raises:
        InputError: There are not enough GPUs, or more stages than layers.
    """
    layers = request.model.num_layers
    if stages < 1 or stages > layers or stages * request.tp > request.gpus:
        raise InputError(
            f"{stages} pipeline stages of {request.tp} GPUs need {stages * request.tp} GPUs and {stages} layers; there "
            f"are {request.gpus} and {layers}",
            f"use --tp {max(1, request.gpus // max(1, stages))}",
        )
    sizes = tuple(layers // stages + (number >= stages - layers % stages) for number in range(stages))
    models = dict.fromkeys(stage_models(request.model, sizes))
    asked = [replace(request, model=model) for model in models]
    return min(asked, key=lambda one: size_server(one).memory.sizes.full_tokens)


def _plan(request: PlanRequest, *, outline: bool) -> EnginePlan:
    """Plan with the flags given; with the first cure that serves where these say nothing of memory."""
    given = _Attempt(request)
    chosen = given
    if not request.as_given:
        # A server that starts at last is worth showing, though it does not serve.
        chosen = settle(
            given,
            _cured(given),
            serves=lambda attempt: attempt.fits,
            improves=lambda last: last.starts and not given.starts,
        )
    plan = _answer(chosen, outline=outline)
    if not chosen.added or outline:
        return plan
    why = _answer(given, outline=True).reason
    what = "The flags given alone do" if request.engine_flags else "SGLang's defaults do"
    warning = f"{what} not serve this request ({why}): farspan adds {' '.join(chosen.added)}."
    return replace(plan, warnings=(warning, *plan.warnings))


def _cured(given: _Attempt) -> Iterator[_Attempt]:
    """Flags to try in turn when the flags given do not serve, of those that nobody gave: fewer rows, then a smaller
    window pool too, where window layers have one, then a fraction in place of a default that chunks or graphs of
    another size than SGLang's have moved."""
    request = given.server.request
    added: dict[str, str | None] = {}
    if not request.has_flag(*MAX_REQUESTS):
        rows = max(8, request.concurrency) * given.server.config.given.attention_groups
        added["--max-running-requests"] = str(rows)
        yield _Attempt(request, added)
    if given.server.config.layout.window_layers and not request.has_flag("--swa-full-tokens-ratio"):
        added = {**added, "--swa-full-tokens-ratio": "0.05"}
        yield _Attempt(request, added)
    if request.has_flag(*_MOVE_THE_FRACTION) and not request.has_flag(*FRACTION):
        for fraction in _FRACTIONS:
            yield _Attempt(request, {**added, "--mem-fraction-static": fraction})


def _completed(request: PlanRequest, extra: Mapping[str, str | None]) -> str:
    """`extra` and whatever else the request then needs, as words to paste; empty when it does not serve even so."""
    plan = _plan(request.with_flags({**request.engine_flags, **extra}), outline=True)
    if not plan.fits:
        return ""
    words = [name if value is None else f"{name} {value}" for name, value in extra.items()]
    return " ".join((*words, *plan.added))


def _answer(attempt: _Attempt, *, outline: bool) -> EnginePlan:
    """The plan an attempt stands for."""
    state = attempt.state
    if state is None:
        return _without_pools(attempt.server)
    request, config, limits = state.request, state.config, state.limits
    sizes, resolved = state.memory.sizes, config.resolved
    starts, fits, runs = state.starts, attempt.fits, state.left_running >= 0
    pools = {"full": sizes.full_tokens * config.given.context_ranks}
    if sizes.window_tokens:
        pools["window"] = sizes.window_tokens
    if sizes.state_slots:
        pools["state slots"] = sizes.state_slots
    if config.elastic is not None:
        pools |= elastic_figures(state)
    # The lines name what breaks; a plan that fits needs them only to be shown.
    shown = not outline or not starts or not runs
    ledger = make_ledger(state) if shown else MemoryLedger((), request.gpu.memory_bytes)
    remarks = Remarks() if outline else find_remarks(state, partial(_completed, request))
    return EnginePlan(
        engine="sglang",
        version=config.rules.version,
        starts=starts,
        fits=fits,
        reason=_reason(state, ledger),
        weights_bytes=state.memory.load.weights_bytes,
        available_kv_bytes=int(state.memory.available),
        capacity_tokens=limits.longest_request,
        max_concurrency=limits.concurrency,
        printed={} if outline else printed_figures(state, ledger),
        pools=pools,
        ledger=ledger,
        flags=server_flags(config, state.context_length),
        warnings=(*config.warnings, *remarks.warnings),
        notes=(*((config.calibration.note,) if config.calibration else ()), *remarks.notes),
        time=estimate_time(
            request.model,
            request.gpu,
            tp=request.tp,
            engine="sglang",
            version=config.rules.version,
            prompt_tokens=max(1, request.context - request.output_tokens),
            output_tokens=request.output_tokens,
            kv_dtype=resolved.kv_dtype,
            backend=resolved.attention_backend,
            chunk=resolved.chunked_prefill_size,
            prefix_tree=config.given.radix_cache,
            eager=config.eager,
            calibration=config.calibration,
        ),
        env=dict(config.env),
        added=attempt.added,
        request_kv_bytes=state.request_kv_bytes,
        request_kv_reason=state.request_kv_reason,
        conditions=config.conditions,
        calibration=config.calibration,
    )


def _reason(state: SglangState, ledger: MemoryLedger) -> str:
    """One sentence: why it fits, or what breaks it and by how much."""
    request, limits, left = state.request, state.limits, state.left_started
    held = state.memory.sizes.full_tokens * state.config.given.context_ranks
    pool = f"{held:,} tokens"
    if state.fits:
        return (
            f"{request.context:,} tokens fit {limits.concurrency:.2f} times in a pool of {pool}, "
            f"{format_bytes(left)} free once started"
        )
    if state.refusal:
        return state.refusal
    if not state.starts:
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
    if request.context > state.context_length:
        return f"--context-length {state.context_length:,} is below {request.context:,} tokens"
    if limits.longest_request + 2 < request.context:
        if limits.hangs_above:
            return (
                f"a prompt above the window pool's {limits.hangs_above:,} tokens waits for ever: admission "
                "up to 0.5.10 needs room for all of it there"
            )
        lacking = request.context - held
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


def server_flags(config: SglangConfig, context_length: int) -> tuple[str, ...]:
    """The server's arguments, ready to paste; flags given by hand are passed through."""
    words = ["--tp-size", str(config.tp), "--context-length", str(context_length)]
    if config.resolved.kv_dtype.value != "auto":
        words += ["--kv-cache-dtype", config.resolved.kv_dtype.value]
    if config.model.config_overrides:
        words += ["--json-model-override-args", config.model.config_overrides]
    return (*words, *config.passed_on)


def _without_pools(server: SglangServer) -> EnginePlan:
    """The plan of a server that stops while sizing its pools."""
    config, memory = server.config, server.memory
    return EnginePlan(
        engine="sglang",
        version=config.rules.version,
        starts=False,
        fits=False,
        reason=str(memory.stops),
        weights_bytes=memory.load.weights_bytes,
        available_kv_bytes=max(0, int(memory.available)),
        capacity_tokens=0,
        max_concurrency=0.0,
        printed={},
        pools={},
        ledger=MemoryLedger(load_lines(config, memory.load), config.gpu.memory_bytes),
        flags=(),
        warnings=config.warnings,
    )
