"""The built-in engine's memory: weights once, and a KV cache that takes memory only as sequences grow.

Mirrors farspan's own `builtin` and `kv` packages: one GPU, KV in the model's dtype or FP8, no RoPE table.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from farspan import __version__
from farspan.errors import InputError
from farspan.kv.kv_options import KVOptions
from farspan.kv.retention import LayerRetention
from farspan.kv.sizing import CacheSize, KindSize, choose_segment_bytes
from farspan.models.spec import AttentionKind, KvDtype, ModelSpec
from farspan.models.tensors import WeightPart
from farspan.models.weights import rank_weight_bytes
from farspan.planner.bisection import last_holding
from farspan.planner.ledger import Allocation, Basis, LedgerPhase, MemoryLedger
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.timing import estimate_time
from farspan.sizes import GIB, format_bytes

_CONTEXT = int(0.67 * GIB)  # 139.80 GiB less the 139.13 free to a process on one H200
_ARCHITECTURES = frozenset({"LlamaForCausalLM", "Llama4ForConditionalGeneration", "Llama4ForCausalLM"})
_LARGEST_RUN = 65536  # farspan/builtin/attention.py: LARGEST_RUN
_GRANULARITY = 2 * 1024**2  # CUDA's, of a device's memory
_DEFAULTS = KVOptions()
_KV_DTYPES = frozenset({"auto", "fp8_e4m3"})
_FLAGS = frozenset(
    {
        "--max-model-len",
        "--kv-cache-gib",
        "--kv-cache-dtype",
        "--kv-segment-mib",
        "--page-size",
        "--max-num-batched-tokens",
        "--max-num-seqs",
        "--dtype",
    }
)


@lru_cache(maxsize=256)
def cache_size(
    model: ModelSpec,
    value_bytes: int,
    step_tokens: int,
    capacity_bytes: int,
    *,
    fp8: bool = False,
    page_tokens: int = _DEFAULTS.page_tokens,
    segment_mib: int | None = None,
) -> CacheSize:
    """The sizes of the built-in engine's KV cache (farspan/kv/sizing.py), counted by the cache's own functions.

    Args:
        model: A model the built-in engine runs.
        value_bytes: Bytes of a key's or value's channel in the engine's dtype.
        step_tokens: --max-num-batched-tokens.
        capacity_bytes: The most the cache may take when the server starts.
        fp8: Whether a channel takes a byte, with a float32 scale a head.
        page_tokens: --page-size.
        segment_mib: --kv-segment-mib.
    """
    row_bytes, kinds = _kinds(model, value_bytes, fp8)
    wanted = None if segment_mib is None else segment_mib * 1024**2
    segment = choose_segment_bytes(max(0, capacity_bytes), len(model.layers), _GRANULARITY, wanted)
    return CacheSize(kinds, row_bytes, page_tokens, segment, step_tokens)


@lru_cache(maxsize=64)
def _kinds(model: ModelSpec, value_bytes: int, fp8: bool) -> tuple[int, tuple[KindSize, ...]]:
    """Bytes of a position in one layer, and the kinds of layers, those that keep everything first."""
    counts: dict[LayerRetention, int] = {}
    for layer in model.layers:
        chunked = layer.attention is AttentionKind.CHUNKED_LOCAL
        retention = LayerRetention(layer.window if chunked else None)
        counts[retention] = counts.get(retention, 0) + 1
    layer = model.layers[0]
    row = layer.kv_entry_bytes(1) + 8 * layer.num_kv_heads if fp8 else layer.kv_entry_bytes(value_bytes)
    ordered = sorted(counts.items(), key=lambda kind: not kind[0].full)
    return row, tuple(KindSize(retention, layers) for retention, layers in ordered)


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
    working = _working_bytes(model, value_bytes, min(step, request.context))

    def size_at(capacity_bytes: int) -> CacheSize:
        return cache_size(
            model,
            value_bytes,
            step,
            capacity_bytes,
            fp8=_fp8(request),
            page_tokens=request.int_flag(_DEFAULTS.page_tokens, "--page-size"),
            segment_mib=request.int_flag(0, "--kv-segment-mib") or None,
        )

    cap, raised = _cap(request, free, working, size_at)
    size = size_at(cap)
    needed = size.needed_bytes(request.context)
    wanted = bytes_of(size, request.context, request.concurrency)
    capacity = longest_sequence(size, cap)
    concurrency = min(_sequences(size, request.context, cap), float(sequences)) if free > 0 else 0.0
    held = min(wanted, cap)
    left = free - max(held, min(size.start_bytes, max(0, cap))) - working
    lines = () if outline else _lines(request, weights, value_bytes, size, held, cap, working, step)
    starts = free > 0 and size.start_bytes <= cap
    fits = starts and wanted <= cap and request.concurrency <= sequences and left >= 0
    flags = ["--device", "cuda", "--max-model-len", str(request.context)]
    if _fp8(request) and not request.has_flag("--kv-cache-dtype"):
        flags += ["--kv-cache-dtype", KvDtype.FP8_E4M3.value]
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
        reason=_reason(request, free, needed, wanted, cap, sequences, left, fits=fits),
        weights_bytes=weights,
        available_kv_bytes=max(0, cap),
        capacity_tokens=capacity,
        max_concurrency=concurrency,
        printed={
            "max_model_len": request.context,
            "KV cache": format_bytes(size.start_bytes),
            "growing to": format_bytes(max(0, cap)),
        },
        pools={
            "longest sequence at the cap": capacity,
            "bytes at start": size.start_bytes,
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


@lru_cache(maxsize=256)
def longest_sequence(size: CacheSize, cap: int) -> int:
    """Most positions one sequence may have when all of it may take `cap` bytes."""
    # A position takes at least a byte.
    return last_holding(1, max(0, cap), lambda positions: size.needed_bytes(positions) <= cap)


def bytes_of(size: CacheSize, context: int, sequences: int) -> int:
    """Bytes that so many sequences of `context` positions take together, in whole segments."""
    pages = [max(1, count) * sequences for count in size.pages(context)]
    return size.segment_count(pages) * size.segment_bytes


def _sequences(size: CacheSize, context: int, cap: int) -> float:
    """How many sequences of `context` positions fit `cap` bytes, segments counted as divisible."""
    pages = size.pages(context)
    one = sum(
        count / size.pages_per_segment * kind.layers for kind, count in zip(size.kinds, pages, strict=True)
    )
    return max(0, cap) / size.segment_bytes / one


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
    asked = request.text_flag(request.kv_dtype.value, "--kv-cache-dtype")
    if asked not in _KV_DTYPES:
        raise InputError(
            f"the built-in engine does not keep keys and values as {asked}",
            f"it knows {', '.join(sorted(_KV_DTYPES))}",
        )
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


def _fp8(request: PlanRequest) -> bool:
    return request.text_flag(request.kv_dtype.value, "--kv-cache-dtype").startswith("fp8")


def _cap(
    request: PlanRequest, free: int, working: int, size_at: Callable[[int], CacheSize]
) -> tuple[int, bool]:
    """The most the cache may take, and whether farspan raised it above the default share of free memory."""
    if request.available_kv_bytes is not None:
        return request.available_kv_bytes, False
    if request.has_flag("--kv-cache-gib"):
        return int(request.float_flag(0.0, "--kv-cache-gib") * GIB), False
    default = int(max(0, free) * _DEFAULTS.share)
    if request.as_given or bytes_of(size_at(default), request.context, request.concurrency) <= default:
        return default, False
    # A larger cap may have larger segments; the second count is with those of the first.
    cap = default
    for _ in range(2):
        wanted = bytes_of(size_at(max(cap, default)), request.context, request.concurrency)
        cap = -(-wanted // (GIB // 100)) * (GIB // 100)
    if (
        default < cap <= free - working
        and bytes_of(size_at(cap), request.context, request.concurrency) <= cap
    ):
        return cap, True
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
    return step + (_LARGEST_RUN * heads * 2 * value_bytes if grouped else 0)


def _lines(
    request: PlanRequest,
    weights: int,
    value_bytes: int,
    size: CacheSize,
    held: int,
    cap: int,
    working: int,
    step: int,
) -> tuple[Allocation, ...]:
    start = min(size.start_bytes, max(0, cap))
    return (
        Allocation(
            "CUDA context",
            _CONTEXT,
            LedgerPhase.LOAD,
            "",
            "0.67 GiB",
            "sglang 0.5.16 log of one H200: 139.80 GiB less 139.13 free",
            Basis.FITTED,
        ),
        Allocation(
            "Weights",
            weights,
            LedgerPhase.LOAD,
            "model",
            f"text tensors at {value_bytes} B a value",
            "the checkpoint's tensor shapes",
            Basis.MIRRORED,
        ),
        Allocation(
            "KV cache at start",
            start,
            LedgerPhase.POOL,
            "layers",
            f"one segment of {size.segment_bytes:,} B a layer until a request comes; "
            f"at most {format_bytes(max(0, cap))}",
            "farspan kv/sizing.py: CacheSize.start_bytes",
            Basis.MIRRORED,
        ),
        Allocation(
            f"KV cache of {request.concurrency} x {request.context:,} tokens",
            max(0, held - start),
            LedgerPhase.RUNTIME,
            "tokens in full layers, a chunk and a step in chunked-local ones",
            f"{' + '.join(map(str, size.pages(request.context)))} pages of {size.page_tokens} tokens a request, "
            f"in whole segments, on top of those at start",
            "farspan kv/sizing.py: CacheSize.pages",
            Basis.MIRRORED,
        ),
        Allocation(
            "Step activations and repeated keys",
            working,
            LedgerPhase.RUNTIME,
            "--max-num-batched-tokens",
            f"{step:,} tokens; keys and values of {_LARGEST_RUN:,} positions for every query head",
            "counted from the layer sizes",
            Basis.ASSUMED,
        ),
    )


def _reason(
    request: PlanRequest,
    free: int,
    needed: int,
    wanted: int,
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
    if cap < wanted:
        return f"{one}, {request.concurrency} of them more than the {format_bytes(cap)} the cache may grow to"
    return f"{format_bytes(-left)} short while serving: {one}"


def _warnings(raised: bool) -> tuple[str, ...]:
    found = [
        "The built-in engine is for demonstrations, tests and rehearsals: its times are not measured, and "
        "are estimated with other engines' efficiencies.",
    ]
    if raised:
        found.insert(0, "The default cap, half of free memory, is too small here: --kv-cache-gib raises it.")
    return tuple(found)
