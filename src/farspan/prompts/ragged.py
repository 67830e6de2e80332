"""Sequences of different lengths in one array, gathered without a Python loop."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ragged:
    """Sequences one after the other in one array.

    Attributes:
        data: All of them: uint8 for byte strings, int32 for token ids.
        starts: Where each begins, int64.
        lengths: Their lengths, int64.
    """

    data: NDArray[Any]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of_strings(cls, strings: Sequence[str]) -> Ragged:
        """Pack strings as UTF-8."""
        encoded = [string.encode() for string in strings]
        return cls._of(np.frombuffer(b"".join(encoded), np.uint8), encoded)

    @classmethod
    def of_arrays(cls, arrays: Sequence[NDArray[Any]]) -> Ragged:
        """Pack arrays of one type."""
        return cls._of(np.concatenate(arrays), arrays)

    @classmethod
    def _of(cls, data: NDArray[Any], sequences: Sequence[Sized]) -> Ragged:
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        return cls(data, np.cumsum(lengths) - lengths, lengths)

    def gather(self, chosen: NDArray[Any]) -> NDArray[Any]:
        """Return the chosen sequences, one after the other."""
        lengths = self.lengths[chosen]
        ends = np.cumsum(lengths)
        source = np.repeat(self.starts[chosen] - (ends - lengths), lengths)
        source += np.arange(len(source))
        gathered: NDArray[Any] = self.data[source]
        return gathered
