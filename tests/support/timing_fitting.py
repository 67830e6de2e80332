"""How `farspan.planner.timing_fits` was made: floors of measured runs, and the efficiencies that reproduce them."""

from __future__ import annotations

from collections.abc import Sequence

from farspan.hardware.gpu import Gpu
from farspan.models.spec import KvDtype, ModelSpec
from farspan.planner.prefill_fit import weigh_run
from farspan.planner.roofline import PrefillWork, decode_rates, prefill_rates
from farspan.planner.timing import prefill_seconds


def prefill_work(model: ModelSpec, tp: int, tokens: int) -> PrefillWork:
    """Operations of a prompt of `tokens` on one of `tp` ranks."""
    return prefill_rates(model, tp).work(tokens)


def decode_bytes(model: ModelSpec, tp: int, context: int, kv_dtype: KvDtype) -> tuple[float, float]:
    """Bytes one rank reads for one decoded token: KV of `context` tokens, and the weights that work on it."""
    rates = decode_rates(model, tp, kv_dtype.value_bytes(model.dtype_bytes))
    return rates.kv(context), rates.weights


def floor_terms(model: ModelSpec, gpu: Gpu, tp: int, tokens: int, kv_dtype: KvDtype) -> PrefillWork:
    """Seconds of a prompt at the peak, by kind of work."""
    return prefill_seconds(model, gpu, tp, kv_dtype).work(tokens)


def decode_floor(model: ModelSpec, gpu: Gpu, tp: int, context: int, kv_dtype: KvDtype) -> float:
    """Seconds one decoded token takes at the memory's peak bandwidth."""
    rates = decode_rates(model, tp, kv_dtype.value_bytes(model.dtype_bytes)).over(gpu.bandwidth)
    return rates.weights + rates.kv(context)


def fit_prefill(
    points: Sequence[tuple[float, float, float]], *, every_length_alike: bool = False
) -> tuple[float, float]:
    """Efficiencies (linear, attention) that reproduce measured seconds best, in relative least squares, each point
    weighed by how far runs repeat.

    Each point is (linear floor, attention floor, measured seconds). Two points are met exactly.
    """
    weights = [1.0 if every_length_alike else weigh_run(seconds) for *_, seconds in points]
    scaled = [
        (weight / seconds, weight, linear, attention)
        for (linear, attention, seconds), weight in zip(points, weights, strict=True)
    ]
    a11 = sum((linear * scale) ** 2 for scale, _, linear, _ in scaled)
    a22 = sum((attention * scale) ** 2 for scale, _, _, attention in scaled)
    a12 = sum(linear * attention * scale**2 for scale, _, linear, attention in scaled)
    b1 = sum(linear * scale * weight for scale, weight, linear, _ in scaled)
    b2 = sum(attention * scale * weight for scale, weight, _, attention in scaled)
    determinant = a11 * a22 - a12 * a12
    return determinant / (b1 * a22 - b2 * a12), determinant / (a11 * b2 - a12 * b1)


def fit_decode(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(bandwidth share, seconds a step) through two measured (floor, seconds between tokens) points."""
    (floor_a, seconds_a), (floor_b, seconds_b) = points
    share = (floor_b - floor_a) / (seconds_b - seconds_a)
    return share, seconds_a - floor_a / share
