"""Token ids and page ids as int32 arrays: taken in once, compared by vector instructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from farspan.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INT32 = np.iinfo(np.int32)
# A mismatch near the start is found by the first, small piece; 64 Ki values of each side stay in the L2 cache.
_FIRST_PIECE = 2048
_LARGEST_PIECE = 65536

IntegerArray: TypeAlias = "Sequence[int] | NDArray[Any]"


def as_int32(values: IntegerArray, what: str) -> NDArray[np.int32]:
    """Return `values` as a contiguous one-dimensional int32 array, itself when it is one already.

    Raises:
        InputError: They are not whole numbers in one dimension, or one does not fit 32 bits.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"{what} must have one dimension and have {array.ndim}")
    if array.dtype == np.int32:
        return np.ascontiguousarray(array)
    if not len(array):
        return np.empty(0, dtype=np.int32)
    if array.dtype.kind not in "iu":
        raise InputError(f"{what} must be whole numbers and are {array.dtype}")
    if int(array.max()) > _INT32.max or int(array.min()) < _INT32.min:
        raise InputError(f"{what} must fit 32 bits and reach from {array.min()} to {array.max()}")
    return array.astype(np.int32)


def common_prefix(left: NDArray[Any], right: NDArray[Any]) -> int:
    """Return how many leading values two arrays share; reads little beyond the first difference."""
    stop = min(len(left), len(right))
    at, piece = 0, _FIRST_PIECE
    while at < stop:
        end = at + piece if at + piece < stop else stop
        differ = left[at:end] != right[at:end]
        first = int(differ.argmax())
        if differ[first]:
            return at + first
        at, piece = end, min(8 * piece, _LARGEST_PIECE)
    return stop
