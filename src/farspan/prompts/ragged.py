"""Sequences of different lengths, one a row, put one after the other without a Python loop over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Rows gathered at a time: they stay within a core's cache.
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Ragged:
    """Sequences, each a row that is filled up behind its end.

    Attributes:
        rows: uint8 for byte strings, int32 for token ids, [sequences, longest].
        lengths: Of each sequence, int64.
        padding: What rows are filled up with; no sequence holds it.
    """

    rows: NDArray[Any]
    lengths: NDArray[np.int64]
    padding: int

    @classmethod
    def of_strings(cls, strings: Sequence[str]) -> Ragged:
        """Pack strings as UTF-8; none may hold NUL."""
        encoded = [np.frombuffer(string.encode(), np.uint8) for string in strings]
        return cls._of(encoded, padding=0)

    @classmethod
    def of_arrays(cls, arrays: Sequence[NDArray[Any]]) -> Ragged:
        """Pack arrays of token ids."""
        return cls._of(arrays, padding=-1)

    @classmethod
    def _of(cls, sequences: Sequence[NDArray[Any]], padding: int) -> Ragged:
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        rows = np.full((len(sequences), int(lengths.max())), padding, sequences[0].dtype)
        rows[np.arange(rows.shape[1]) < lengths[:, None]] = np.concatenate(sequences)
        return cls(rows, lengths, padding)

    def gather(self, chosen: NDArray[Any]) -> NDArray[Any]:
        """Return the chosen sequences, one after the other."""
        if self.rows.shape[1] == 1:
            single: NDArray[Any] = self.rows[:, 0][chosen]
            return single
        starts = range(0, len(chosen), _ROWS_AT_ONCE)
        parts = [self._gather_few(chosen[start : start + _ROWS_AT_ONCE]) for start in starts]
        return np.concatenate(parts) if parts else self.rows[:0].ravel()

    def _gather_few(self, chosen: NDArray[Any]) -> NDArray[Any]:
        filled = self.rows.take(chosen, axis=0).ravel()
        gathered: NDArray[Any] = filled[filled != self.padding]
        return gathered
