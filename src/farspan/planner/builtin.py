"""The built-in engine's memory: weights once, and a KV cache that takes memory only as sequences grow.

Mirrors farspan's own `builtin` and `kv` packages: one GPU, KV in the model's dtype, no RoPE table.
"""

from __future__ import annotations

from functools import lru_cache

from farspan import __version__
from farspan.errors import InputError
from farspan.models.spec import AttentionKind, KvDtype, ModelSpec
from farspan.models.tensors import WeightPart
from farspan.models.weights import rank_weight_bytes
from farspan.planner.ledger import Allocation, Basis, MemoryLedger, Phase
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.timing import estimate_time
from farspan.sizes import GIB, format_bytes

_CONTEXT = int(0.67 * GIB)  # 139.80 GiB less the 139.13 free to a process on one H200
_ARCHITECTURES = frozenset({"LlamaForCausalLM", "Llama4ForConditionalGeneration", "Llama4ForCausalLM"})
_EVERY_TOKEN = 2**62
_LARGEST_BLOCK = 65536  # farspan/kv/growing.py
_FLAGS = frozenset(
    {"--max-model-len", "--kv-cache-gib", "--max-num-batched-tokens", "--max-num-seqs", "--dtype"}
)


def needed_bytes(model: ModelSpec, value_bytes: int, step_tokens: int, tokens: int) -> int:
    """KV bytes one sequence of `tokens` positions may take (farspan/kv/growing.py: needed_bytes).

    A full layer keeps every position; a chunked-local one the chunk a step starts in and those it passes.
    """
    return sum(rate * min(tokens, most) for rate, most in _rates(model, value_bytes, step_tokens))


@lru_cache(maxsize=64)
def _rates(model: ModelSpec, value_bytes: int, step_tokens: int) -> tuple[tuple[int, int], ...]:
    """(bytes a kept token, most tokens kept) over all layers."""
    rates: dict[int, int] = {}
    for layer in model.layers:
        most = _EVERY_TOKEN
        if layer.attention is AttentionKind.CHUNKED_LOCAL and layer.window:
            most = layer.window * (1 + -(-step_tokens // layer.window))
        rates[most] = rates.get(most, 0) + layer.kv_entry_bytes(value_bytes)
    return tuple((rate, most) for most, rate in rates.items())


def plan_builtin(request: PlanRequest) -> EnginePlan:
    """What the built-in engine would do with a request.

    Raises:
        InputError: More than one rank, a model it does not run, a KV type other than the model's, a flag it
            does not have.
    """
    return _plan(request, outline=False)


def outline_builtin(request: PlanRequest) -> EnginePlan:
    """The same plan without ledger and warnings, for sweeps and searches.

    Raises:
        InputError: As `plan_builtin`.
    """
    return _plan(request, outline=True)


def _plan(request: PlanRequest, *, outline: bool) -> EnginePlan:
    model = request.model
    _refuse(request)
    value_bytes = {"float32": 4, "bfloat16": 2}.get(request.text_flag("", "--dtype"), model.dtype_bytes)
    step = request.int_flag(2048, "--max-num-batched-tokens")
    sequences = min(request.int_flag(64, "--max-num-seqs"), step)
    weights = _weight_bytes(model, value_bytes)
    free = request.gpu.memory_bytes - _CONTEXT - weights
    needed = needed_bytes(model, value_bytes, step, request.context)
    wanted = needed * request.concurrency
    working = _working_bytes(model, value_bytes, min(step, request.context))
    cap, raised = _cap(request, free, wanted, working)
    capacity = longest_sequence(model, value_bytes, step, cap)
    concurrency = min(cap / needed, float(sequences)) if free > 0 else 0.0
    held = max(0, min(wanted, cap))
    left = free - held - working
    starts = free > 0
    fits = starts and concurrency >= request.concurrency and left >= 0
    lines = () if outline else _lines(request, weights, value_bytes, held, cap, working, step)
    flags = ["--device", "cuda", "--max-model-len", str(request.context)]
    if raised:
        flags += ["--kv-cache-gib", f"{cap / GIB:.2f}"]
    for name, value in request.engine_flags.items():
        if name != "--max-model-len" and value is not None:
            flags += [name, value]
    return EnginePlan(
        engine="builtin",
        version=__version__,
        starts=starts,
        fits=fits,
        reason=_reason(request, free, needed, cap, sequences, left, fits=fits),
        weights_bytes=weights,
        available_kv_bytes=max(0, cap),
        capacity_tokens=capacity,
        max_concurrency=concurrency,
        printed={"max_model_len": request.context, "KV cache": format_bytes(max(0, cap))},
        pools={
            "longest sequence at the cap": capacity,
            "bytes at start": 0,
            f"bytes at {request.context:,} tokens": needed,
            "bytes at the cap": max(0, cap),
        },
        ledger=MemoryLedger(lines, request.gpu.memory_bytes),
        flags=tuple(flags),
        warnings=() if outline else _warnings(raised),
        time=estimate_time(
            model,
            request.gpu,
            tp=1,
            engine="builtin",
            version=__version__,
            prompt_tokens=max(1, request.context - request.output_tokens),
            output_tokens=request.output_tokens,
            kv_dtype=KvDtype.AUTO,
        ),
        added=(f"--kv-cache-gib {cap / GIB:.2f}",) if raised else (),
    )


def longest_sequence(model: ModelSpec, value_bytes: int, step_tokens: int, cap: int) -> int:
    """Most positions one sequence may have when all of it may take `cap` bytes."""
    room, reached = max(0, cap), 0
    rates = sorted(_rates(model, value_bytes, step_tokens), key=lambda kept: kept[1])
    slope = sum(rate for rate, _ in rates)
    for rate, most in rates:
        # Up to here every remaining layer takes more with each position; past it, those of `rate` do not.
        if slope * (most - reached) > room:
            return reached + room // slope
        room -= slope * (most - reached)
        slope, reached = slope - rate, most
    return reached


def _refuse(request: PlanRequest) -> None:
    model = request.model
    if request.tp != 1:
        raise InputError("the built-in engine runs on one GPU", "plan it with --tp 1")
    if model.architecture not in _ARCHITECTURES:
        raise InputError(
            f"the built-in engine does not run {model.architecture}",
            "it runs Llama 3 and Llama 4; serve this model with vLLM or SGLang",
        )
    if model.quantization is not None:
        raise InputError("the built-in engine does not run quantized checkpoints", "give the bf16 checkpoint")
    if request.kv_dtype.is_fp8:
        raise InputError("the built-in engine keeps keys and values in the model's dtype", "drop --kv-dtype")
    unknown = sorted(set(request.engine_flags) - _FLAGS)
    if unknown:
        raise InputError(f"the built-in engine has no {unknown[0]}", f"it has {', '.join(sorted(_FLAGS))}")
    if request.has_flag("--dtype") and request.text_flag("", "--dtype") not in (
        "auto",
        "float32",
        "bfloat16",
    ):
        raise InputError("--dtype is auto, float32 or bfloat16 for the built-in engine", "choose one of them")


@lru_cache(maxsize=64)
def _weight_bytes(model: ModelSpec, value_bytes: int) -> int:
    """Text weights in the engine's dtype; the vision tower is not loaded."""
    by_part = rank_weight_bytes(model, 1).by_part
    text = sum(
        count for part, count in by_part.items() if part not in (WeightPart.VISION, WeightPart.PROJECTOR)
    )
    return text * value_bytes // model.dtype_bytes


def _cap(request: PlanRequest, free: int, wanted: int, working: int) -> tuple[int, bool]:
    """The most the cache may take, and whether farspan raised it above the default half of free memory."""
    if request.available_kv_bytes is not None:
        return request.available_kv_bytes, False
    if request.has_flag("--kv-cache-gib"):
        return int(request.float_flag(0.0, "--kv-cache-gib") * GIB), False
    default = max(0, free) // 2
    if default < wanted <= free - working and not request.as_given:
        return -(-wanted // (GIB // 100)) * (GIB // 100), True
    return default, False


@lru_cache(maxsize=64)
def _working_bytes(model: ModelSpec, value_bytes: int, tokens: int) -> int:
    """Activations of one step, and the copy of one run's keys and values for every query head
    (farspan/builtin/attention.py: _fused)."""
    widest = max(
        max(
            layer.intermediate_size,
            layer.moe.intermediate_size * layer.moe.top_k + layer.moe.shared_intermediate_size
            if layer.moe
            else 0,
        )
        for layer in model.layers
    )
    heads = max(layer.num_heads * layer.head_dim for layer in model.layers)
    step = tokens * value_bytes * (6 * model.hidden_size + 3 * heads + 2 * widest)
    grouped = any(layer.num_heads > layer.num_kv_heads for layer in model.layers)
    return step + (_LARGEST_BLOCK * heads * 2 * value_bytes if grouped else 0)


def _lines(
    request: PlanRequest, weights: int, value_bytes: int, held: int, cap: int, working: int, step: int
) -> tuple[Allocation, ...]:
    model = request.model
    return (
        Allocation(
            "CUDA context",
            _CONTEXT,
            Phase.LOAD,
            "",
            "0.67 GiB",
            "sglang 0.5.16 log of one H200: 139.80 GiB less 139.13 free",
            Basis.FITTED,
        ),
        Allocation(
            "Weights",
            weights,
            Phase.LOAD,
            "model",
            f"text tensors at {value_bytes} B a value",
            "the checkpoint's tensor shapes",
            Basis.MIRRORED,
        ),
        Allocation(
            "KV cache at start",
            0,
            Phase.POOL,
            "sequences as they grow",
            f"nothing until a request comes; at most {format_bytes(max(0, cap))}",
            "farspan kv/growing.py: GrowingKVCache",
            Basis.MIRRORED,
        ),
        Allocation(
            f"KV cache of {request.concurrency} x {request.context:,} tokens",
            held,
            Phase.RUNTIME,
            "tokens in full layers, a chunk and a step in chunked-local ones",
            f"{request.concurrency} x {needed_bytes(model, value_bytes, step, request.context):,} B",
            "farspan kv/growing.py: GrowingKVCache.needed_bytes",
            Basis.MIRRORED,
        ),
        Allocation(
            "Step activations and repeated keys",
            working,
            Phase.RUNTIME,
            "--max-num-batched-tokens",
            f"{step:,} tokens; keys and values of {_LARGEST_BLOCK:,} positions for every query head",
            "counted from the layer sizes",
            Basis.ASSUMED,
        ),
    )


def _reason(
    request: PlanRequest,
    free: int,
    needed: int,
    cap: int,
    sequences: int,
    left: int,
    *,
    fits: bool,
) -> str:
    if free <= 0:
        return f"the weights leave no memory: {format_bytes(-free)} short"
    one = f"one request of {request.context:,} tokens takes {format_bytes(needed)}"
    if fits:
        return f"{one} of the {format_bytes(cap)} the cache may grow to"
    if request.concurrency > sequences:
        return f"--max-num-seqs {sequences} is below {request.concurrency} requests"
    if cap < needed * request.concurrency:
        return f"{one}, {request.concurrency} of them more than the {format_bytes(cap)} the cache may grow to"
    return f"{format_bytes(-left)} short while serving: {one}"


def _warnings(raised: bool) -> tuple[str, ...]:
    found = [
        "The built-in engine is for demonstrations, tests and rehearsals: its times are not measured, and "
        "are estimated with other engines' efficiencies.",
        "Sequences share nothing in its cache yet: a repeated prefix is computed again.",
    ]
    if raised:
        found.insert(0, "The default cap, half of free memory, is too small here: --kv-cache-gib raises it.")
    return tuple(found)
