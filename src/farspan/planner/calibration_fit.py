"""Efficiencies of one rank, fitted to prompts and steps that were measured on it, by the planner's own terms."""

from __future__ import annotations

from collections.abc import Sequence

from farspan.errors import InputError
from farspan.hardware.gpu import Gpu
from farspan.models.spec import KvDtype, ModelSpec
from farspan.planner.prefill_fit import PrefillPoint, weigh_run
from farspan.planner.roofline import decode_rates
from farspan.planner.timing import prefill_seconds
from farspan.planner.timing_fits import Fit
from farspan.sizes import format_tokens


def fit_prefill_shares(
    model: ModelSpec, gpu: Gpu, tp: int, kv_dtype: KvDtype, points: Sequence[PrefillPoint]
) -> tuple[float, float]:
    """The shares of the peaks, for weights and for attention, that describe measured prompts of one rank best.

    Least squares, weighed by how far runs repeat (`weigh_run`), of (weights at the peak) / linear + (attention at the
    peak) / attention over the time; no share is above 1.

    Raises:
        InputError: The points are not of two lengths, or they beat the hardware.
    """
    rates = prefill_seconds(model, gpu, tp, kv_dtype)
    rows = []
    for tokens, seconds in points:
        work = rates.work(tokens)
        rows.append((work.linear / seconds, (work.attention + work.local) / seconds))
    lengths = {point.tokens for point in points}
    if len(lengths) < 2:
        found = ", ".join(format_tokens(length) for length in sorted(lengths)) or "none"
        raise InputError(
            f"efficiencies are fitted to prompts of two different lengths at least; measured: {found}",
            "measure more --contexts",
        )
    slow = [(row, point) for row, point in zip(rows, points, strict=True) if sum(row) > 1]
    if slow:
        _, point = slow[0]
        raise InputError(
            f"{format_tokens(point.tokens)} tokens in {point.seconds:g} s are faster than {gpu.name} can be",
            "see that the prompts were cold, and that --gpus names the GPU",
        )
    linear, attention = _least_squares_above_one(rows, [weigh_run(seconds) for _, seconds in points])
    return 1 / linear, 1 / attention


def _least_squares_above_one(
    shares: Sequence[tuple[float, float]], weights: Sequence[float]
) -> tuple[float, float]:
    """x, y >= 1 with the least weighted squares of a x + b y - 1."""
    rows = [(a * weight, b * weight, weight) for (a, b), weight in zip(shares, weights, strict=True)]
    aa = sum(a * a for a, _, _ in rows)
    bb = sum(b * b for _, b, _ in rows)
    ab = sum(a * b for a, b, _ in rows)
    a1, b1 = sum(a * weight for a, _, weight in rows), sum(b * weight for _, b, weight in rows)
    determinant = aa * bb - ab * ab
    found = []
    if determinant > 1e-12 * aa * bb:
        found.append(((a1 * bb - b1 * ab) / determinant, (b1 * aa - a1 * ab) / determinant))
    if bb > 0:
        found.append((1.0, (b1 - ab) / bb))
    if aa > 0:
        found.append(((a1 - ab) / aa, 1.0))
    found.append((1.0, 1.0))
    good = [(x, y) for x, y in found if x >= 1 and y >= 1]
    return min(good, key=lambda one: sum((a * one[0] + b * one[1] - weight) ** 2 for a, b, weight in rows))


def fit_decode(
    model: ModelSpec, gpu: Gpu, tp: int, kv_dtype: KvDtype, points: Sequence[PrefillPoint], known: Fit
) -> tuple[float, float]:
    """The share of the bandwidth, and the seconds of a step besides reading, that describe measured steps best.

    Args:
        model, gpu, tp, kv_dtype: The rank that ran.
        points: Tokens in the cache and seconds a step; one length alone keeps `known`'s share.
        known: The fit used so far.

    Raises:
        InputError: There is no point, or a step beats the hardware.
    """
    rates = decode_rates(model, tp, kv_dtype.value_bytes(model.dtype_bytes)).over(gpu.bandwidth)
    rows = [(rates.weights + rates.kv(tokens), seconds) for tokens, seconds in points]
    if not rows:
        raise InputError("no time between tokens was measured", "measure answers of 2 tokens or more")
    if any(floor > seconds for floor, seconds in rows):
        raise InputError(f"a step is faster than {gpu.name} can read memory", "see that --gpus names the GPU")
    # Relative squares of step + floor / share; a share above 1 or a step below 0 is not.
    ww = sum(1 / seconds**2 for _, seconds in rows)
    wf = sum(floor / seconds**2 for floor, seconds in rows)
    ff = sum((floor / seconds) ** 2 for floor, seconds in rows)
    w1, f1 = sum(1 / seconds for _, seconds in rows), sum(floor / seconds for floor, seconds in rows)
    determinant = ww * ff - wf * wf
    if len({tokens for tokens, _ in points}) > 1 and determinant > 1e-9 * ww * ff:
        step, slope = (w1 * ff - f1 * wf) / determinant, (f1 * ww - w1 * wf) / determinant
        if step >= 0 and slope >= 1:
            return 1 / slope, step
    slope = 1 / known.decode
    step = (w1 - slope * wf) / ww
    if step >= 0:
        return known.decode, step
    return min(1.0, ff / f1), 0.0
