"""How long a request takes: a physical floor, and what to expect from efficiencies fitted to real runs.

Floor: operations over the GPU's dense peak, bytes over its bandwidth; nothing runs faster. Expected: the same
terms over the efficiencies of `timing_fits`, plus the CPU time of SGLang's prefix tree where it was measured, plus what
the ranks exchange where the efficiencies are of one rank alone.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from farspan.hardware.gpu import Gpu
from farspan.models.spec import KvDtype, ModelSpec
from farspan.planner.calibration import Calibration, kv_name
from farspan.planner.collectives import estimate_collectives
from farspan.planner.roofline import (
    DecodeRates,
    PrefillRates,
    decode_rates,
    prefill_rates,
)
from farspan.planner.timing_fits import (
    DECODE_ALONE,
    EAGER_EXPERTS_S,
    EAGER_LAYER_S,
    FITS,
    PREFIX_TREE_CHUNK,
    PREFIX_TREE_CHUNK_POWER,
    PREFIX_TREE_S,
    Fit,
)
from farspan.planner.versions import version_key
from farspan.sizes import format_bytes

_PCIE_BYTES_PER_S = 64e9  # PCIe 5.0, 16 lanes, one way


class TimeTerm(NamedTuple):
    """One part of the time to the first token, in seconds."""

    name: str
    floor_s: float
    expected_s: float
    formula: str


class TimeEstimate(NamedTuple):
    """Time of one request alone on the server, cold.

    Args:
        ttft_floor_s: No hardware of this kind reaches the first token sooner.
        ttft_expected_s: What to expect.
        itl_floor_s: Floor of the time between tokens, at the full context.
        itl_expected_s: What to expect of it.
        prompt_tokens: Tokens of the prompt.
        output_tokens: Tokens of the answer.
        fitted: Whether this engine version was fitted on this GPU and KV type; else efficiencies are assumed.
        calibrated: Whether it was fitted on this very machine.
        basis: How the expectation was reached, in words.
        terms: The parts of the time to the first token.
    """

    ttft_floor_s: float
    ttft_expected_s: float
    itl_floor_s: float
    itl_expected_s: float
    prompt_tokens: int
    output_tokens: int
    fitted: bool
    basis: str
    terms: tuple[TimeTerm, ...]
    calibrated: bool = False

    @property
    def trust(self) -> str:
        """How far to trust it, in one word: calibrated, fitted or assumed."""
        return "calibrated" if self.calibrated else "fitted" if self.fitted else "assumed"

    @property
    def request_floor_s(self) -> float:
        """Floor of the whole request: first token and the steps after it."""
        return self.ttft_floor_s + max(0, self.output_tokens - 1) * self.itl_floor_s

    @property
    def request_expected_s(self) -> float:
        """Expected time of the whole request."""
        return self.ttft_expected_s + max(0, self.output_tokens - 1) * self.itl_expected_s

    @property
    def prefill_rate(self) -> float:
        """Expected prompt tokens a second."""
        return self.prompt_tokens / self.ttft_expected_s


def estimate_time(
    model: ModelSpec,
    gpu: Gpu,
    *,
    tp: int,
    engine: str,
    version: str,
    prompt_tokens: int,
    output_tokens: int,
    kv_dtype: KvDtype,
    backend: str = "",
    chunk: int = PREFIX_TREE_CHUNK,
    prefix_tree: bool = False,
    eager: bool = False,
    calibration: Calibration | None = None,
) -> TimeEstimate:
    """Estimate one cold request alone on a server.

    `backend` is the prefill attention backend where it matters. `prefix_tree` says that the engine keeps a prefix
    tree whose CPU time counts at this length, as SGLang does; `chunk` is how many prompt tokens a step takes at most.
    `eager` says that each step launches its kernels one by one, without CUDA graphs. `calibration` is what this machine
    was found to do under these very conditions. Pure.
    """
    pace = _pace(model, gpu, tp, engine, version, kv_dtype, backend, calibration)
    fit, basis = pace.fit, pace.basis
    floors = pace.prefill.work(prompt_tokens)
    linear, attention, local = (
        floors.linear / fit.linear,
        floors.attention / fit.attention,
        floors.local / fit.attention,
    )
    terms: tuple[TimeTerm, ...] = (
        TimeTerm("weights", floors.linear, linear, pace.linear_formula),
        TimeTerm("attention", floors.attention, attention, pace.attention_formula),
        TimeTerm("local attention", floors.local, local, pace.attention_formula),
    )
    expected = linear + attention + local
    # A calibrated prefill holds the tree's time of its own prompts already.
    if prefix_tree and (calibration is None or calibration.linear is None):
        tree = prefix_tree_seconds(version, prompt_tokens, chunk)
        if tree:
            terms = (
                *terms,
                TimeTerm("prefix tree (CPU)", 0.0, tree, "measured on one core, scaled to this prompt"),
            )
            expected += tree
            basis += "; prefix tree from CPU measurements of this version"
        else:
            basis += "; the prefix tree's CPU time was not measured for this version and is left out"
    exchanged = estimate_collectives(model, gpu, tp, prompt_tokens, chunk=chunk)
    added = _Collectives(
        prefill_s=exchanged.prefill_s if pace.prefill_alone else 0.0,
        step_s=exchanged.step_s if pace.decode_alone else 0.0,
    )
    if added.prefill_s:
        terms = (*terms, TimeTerm("collectives", 0.0, added.prefill_s, f"assumed: {exchanged.formula}"))
        expected += added.prefill_s
    if any(added):
        what = "" if added.prefill_s else " between tokens"
        basis += f"; what {tp} ranks exchange{what} is an estimate, {exchanged.basis}"
    launches = eager_step_seconds(model) if eager else 0.0
    if calibration is not None and calibration.launches is not None:
        launches *= calibration.launches
    elif eager:
        basis += "; eager steps launch each kernel by itself, as one rank of Scout or Llama 70B was seen to"
    itl_floor = pace.decode.weights + pace.decode.kv(prompt_tokens + output_tokens)
    return TimeEstimate(
        ttft_floor_s=floors.linear + floors.attention + floors.local,
        ttft_expected_s=expected,
        itl_floor_s=itl_floor,
        itl_expected_s=max(fit.step_s + itl_floor / fit.decode, launches) + added.step_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        fitted=pace.fitted,
        basis=basis,
        terms=terms,
        calibrated=calibration is not None and calibration.linear is not None,
    )


@lru_cache(maxsize=64)
def eager_step_seconds(model: ModelSpec) -> float:
    """What the CPU needs to launch one step's kernels one by one: no step without CUDA graphs is faster."""
    return sum(EAGER_EXPERTS_S if layer.moe else EAGER_LAYER_S for layer in model.layers)


class _Pace(NamedTuple):
    """What the length of a request does not change: rates in seconds at the peaks, and the fit."""

    prefill: PrefillRates
    decode: DecodeRates
    fit: Fit
    fitted: bool
    basis: str
    linear_formula: str
    attention_formula: str
    prefill_alone: bool
    decode_alone: bool


class _Collectives(NamedTuple):
    """What a deployment pays beside one rank that was measured alone; fits to whole deployments hold it already."""

    prefill_s: float
    step_s: float


@lru_cache(maxsize=256)
def _pace(
    model: ModelSpec,
    gpu: Gpu,
    tp: int,
    engine: str,
    version: str,
    kv_dtype: KvDtype,
    backend: str,
    calibration: Calibration | None,
) -> _Pace:
    fit, fitted, basis = choose_fit(engine, version, gpu.name, kv_dtype, backend, experts=has_experts(model))
    prefill_alone, decode_alone = fit.alone, DECODE_ALONE
    if calibration is not None:
        fit = calibration.apply_to(fit)
        if calibration.linear is not None:
            fitted, basis, prefill_alone = True, calibration.basis, calibration.ranks == 1
        if calibration.decode is not None or calibration.launches is not None:
            decode_alone = calibration.ranks == 1
    return _Pace(
        prefill_seconds(model, gpu, tp, kv_dtype),
        decode_rates(model, tp, kv_dtype.value_bytes(model.dtype_bytes)).over(gpu.bandwidth),
        fit,
        fitted,
        basis,
        f"{fit.linear:.2f} of the peak",
        f"{fit.attention:.3f} of the peak",
        prefill_alone,
        decode_alone,
    )


def prefill_seconds(model: ModelSpec, gpu: Gpu, tp: int, kv_dtype: KvDtype) -> PrefillRates:
    """Seconds at the dense peak; the FP8 peak for FP8 weights, and for attention on an FP8 cache."""
    fp8_weights = model.quantization is not None and model.quantization.method == "fp8"
    linear_peak = gpu.fp8_flops if fp8_weights and gpu.fp8_flops else gpu.bf16_flops
    attention_peak = gpu.fp8_flops if kv_dtype.is_fp8 and gpu.fp8_flops else gpu.bf16_flops
    return prefill_rates(model, tp).over(linear_peak, attention_peak)


def offloaded_weights_note(offloaded: int) -> list[str]:
    """What the times leave out when `offloaded` bytes of weights a GPU stay in the machine's memory."""
    if not offloaded:
        return []
    return [
        f"Every step brings the {format_bytes(offloaded)} of weights in RAM over PCIe: "
        f"{offloaded / _PCIE_BYTES_PER_S:.2f} s a step at 64 GB/s, for a token of the answer as for a chunk of the "
        "prompt. The times here leave it out."
    ]


@lru_cache(maxsize=64)
def has_experts(model: ModelSpec) -> bool:
    """Whether a model has a layer of experts."""
    return any(layer.moe for layer in model.layers)


def choose_fit(
    engine: str, version: str, gpu: str, kv_dtype: KvDtype, backend: str, *, experts: bool = True
) -> tuple[Fit, bool, str]:
    """The fit to use, whether it is this very combination's, and how to say so.

    Args:
        engine, version, gpu, kv_dtype, backend: What runs.
        experts: Whether the model has experts. Where only models of the other kind were measured, the share for weights
            is that of the kind, on whichever engine it was.
    """
    kv = kv_name(kv_dtype)
    same = [fit for fit in FITS if fit.engine == engine and (not fit.backend or fit.backend == backend)]
    exact = [
        fit for fit in same if (fit.version, fit.gpu, fit.kv, fit.experts) == (version, gpu, kv, experts)
    ]
    if exact:
        return exact[0], True, f"fitted to {exact[0].runs}"
    fallback = FITS[0]
    candidates = [fit for fit in same if fit.kv == kv] or same
    candidates = [fit for fit in candidates if fit.experts == experts] or candidates
    if candidates:
        key = version_key(version)
        older = [fit for fit in candidates if version_key(fit.version) <= key]
        fallback = max(older or candidates, key=lambda fit: version_key(fit.version))
    what = " ".join(part for part in (engine, version, backend, f"{kv} KV on {gpu}") if part)
    said = (
        f"assumed: no run of {what} was measured; efficiencies of {fallback.engine} {fallback.version} "
        f"({fallback.kv} KV, {fallback.gpu}) are used, fitted to {fallback.runs}"
    )
    if fallback.experts != experts:
        kind = next(fit for fit in FITS if fit.experts == experts)
        fallback = fallback._replace(linear=kind.linear, alone=kind.alone)
        said += f"; that for weights is {kind.engine} {kind.version}'s, fitted to {kind.runs}"
    return fallback, False, said


def prefix_tree_seconds(version: str, tokens: int, chunk: int) -> float:
    """CPU seconds SGLang's prefix tree takes for a prompt prefilled in chunks; 0 where it was not measured.

    Log-log interpolation of the measured points, their end slopes beyond them.
    """
    points = PREFIX_TREE_S.get(version)
    if points is None or tokens <= 0 or chunk <= 0:
        return 0.0
    seconds = _interpolate(points, tokens)
    return seconds if chunk == PREFIX_TREE_CHUNK else seconds * _chunk_scale(chunk)


def _chunk_scale(chunk: int) -> float:
    return math.pow(PREFIX_TREE_CHUNK / chunk, PREFIX_TREE_CHUNK_POWER)


def _interpolate(points: tuple[tuple[float, float], ...], tokens: float) -> float:
    upper: int = next((i for i, (x, _) in enumerate(points) if x >= tokens), len(points) - 1)
    upper = max(1, upper)
    (x0, y0), (x1, y1) = points[upper - 1], points[upper]
    slope = math.log(y1 / y0) / math.log(x1 / x0)
    return y0 * math.pow(tokens / x0, slope)
