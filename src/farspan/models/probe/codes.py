"""Token codes for the recall checkpoint: many ±1 vectors whose pairwise correlations are bounded by algebra.

A code is the truth table of x -> Tr(a x^3 + b x) over GF(2^m), read as ±1; its length is D = 2^m. Two codes that share
`a` are orthogonal; otherwise their correlation is a value of the Walsh spectrum of Tr(c x^3), c != 0, which is
{0, ±2^((m+1)/2)} for odd m and {±2^(m/2), 0, ±2^((m+2)/2)} for even m (R. Gold, "Maximal recursive sequences with
3-valued recursive cross-correlation functions", IEEE Trans. IT 14, 1968). So |correlation| / D is at most 1/4 for
D = 64 (4,096 codes) and 1/8 for D = 128 (16,384 codes), where random codes of 64 reach 0.66.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farspan.errors import InputError

# Primitive polynomials over GF(2), without the leading term: x^6 + x + 1 and x^7 + x + 1.
_REDUCTION = {6: 0b11, 7: 0b11}


def correlation_bound(length: int) -> float:
    """Return the largest |correlation| between two different codes of this length, as a share of the length."""
    m = _exponent(length)
    return float(2.0 ** ((m + 2 - m % 2) // 2) / length)


def gold_codes(count: int, length: int) -> NDArray[np.int8]:
    """Return `count` codes as an int8 array [count, length] of ±1.

    Raises:
        InputError: The length is neither 64 nor 128, or more codes are asked for than exist (length squared).
    """
    m = _exponent(length)
    if not 0 < count <= length * length:
        raise InputError(f"{count} codes of length {length} do not exist", f"ask for 1 to {length * length}")
    x = np.arange(length, dtype=np.int64)
    cube = _multiply(_multiply(x, x, m), x, m)
    index = np.arange(count, dtype=np.int64)
    quadratic = _multiply((index // length)[:, None], cube[None, :], m)
    linear = _multiply((index % length)[:, None], x[None, :], m)
    return (1 - 2 * _trace(quadratic ^ linear, m)).astype(np.int8)


def _exponent(length: int) -> int:
    m = length.bit_length() - 1
    if m not in _REDUCTION or length != 1 << m:
        raise InputError(f"no codes of length {length}", "use a head dimension of 64 or 128")
    return m


def _multiply(a: NDArray[np.int64], b: NDArray[np.int64], m: int) -> NDArray[np.int64]:
    """Multiply elementwise in GF(2^m): shift-and-add, reducing after each shift."""
    a, b = np.broadcast_arrays(a, b)
    result = np.zeros_like(a)
    shifted = a.copy()
    for bit in range(m):
        result ^= np.where((b >> bit) & 1, shifted, 0)
        shifted <<= 1
        shifted = np.where(shifted >> m & 1, (shifted ^ _REDUCTION[m]) & ((1 << m) - 1), shifted)
    return result


def _trace(x: NDArray[np.int64], m: int) -> NDArray[np.int64]:
    """Return the absolute trace x + x^2 + x^4 + ... of each element, 0 or 1."""
    total = np.zeros_like(x)
    power = x
    for _ in range(m):
        total ^= power
        power = _multiply(power, power, m)
    return total
