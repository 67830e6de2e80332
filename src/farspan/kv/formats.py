"""How the keys and values of one position lie in a layer's row of bytes, and how they are written and read.

A row is [2, num_kv_heads, head_dim]: keys, then values. In FP8 each head's key and value are bytes of E4M3 and the row
ends with their scales, float32 [2, num_kv_heads]: a scale a head and position costs 4 bytes in `head_dim` and needs no
calibration, so that a rare large key cannot clip and a small one cannot vanish.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farspan.errors import InputError
from farspan.kv.interface import PageRun

if TYPE_CHECKING:
    import torch

# The largest magnitude of float8_e4m3fn (OCP 8-bit floating point, table 2).
_E4M3_MAX = 448.0
# Positions turned back into 16 or 32 bits at a time: what a run costs while it is attended to.
_DEQUANTIZED = {"cpu": 65536, "cuda": 262144}


class LayerStore(ABC):
    """The rows of one layer. Slots are positions in its range; they never move.

    Attributes:
        entries: Keys and values [slots, 2, num_kv_heads, head_dim] at fixed addresses: in the model's dtype, or as
            float8_e4m3fn.
        scales: What FP8 entries are multiplied by, float32 [slots, 2, num_kv_heads]; None where they are exact.
    """

    entries: torch.Tensor
    scales: torch.Tensor | None = None

    @abstractmethod
    def scatter(self, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store keys and values, each [tokens, num_kv_heads, head_dim], in any slots, int64 [tokens]."""

    @abstractmethod
    def write(self, slot: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store keys and values, each [tokens, num_kv_heads, head_dim], in consecutive slots from `slot` on."""

    @abstractmethod
    def read(self, slot: int, count: int) -> Iterator[PageRun]:
        """Yield the entries of consecutive slots, in one piece or several."""

    @abstractmethod
    def join(self, slices: Sequence[tuple[int, int]]) -> Iterator[PageRun]:
        """Yield the entries of several (first slot, slots), copied together, in one piece or several."""

    @abstractmethod
    def gather(self, slots: torch.Tensor) -> Iterator[PageRun]:
        """Yield the entries of scattered slots, int64 [n], copied together, in one piece or several."""


@dataclass(frozen=True, slots=True)
class KVFormat:
    """What a position's keys and values look like in one layer.

    Attributes:
        num_kv_heads: KV heads.
        head_dim: Channels of a head.
        dtype: Of keys and values as attention takes them.
        fp8: Whether they are kept as FP8 E4M3 with a scale a head and position.
    """

    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    fp8: bool = False

    def __post_init__(self) -> None:
        if self.fp8 and self.head_dim % 2:
            raise InputError(
                f"FP8 keys and values need an even head_dim, not {self.head_dim}", "use the model's dtype"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of one position in one layer."""
        values = 2 * self.num_kv_heads * self.head_dim
        return values + 8 * self.num_kv_heads if self.fp8 else values * self.dtype.itemsize

    def store(self, rows: torch.Tensor) -> LayerStore:
        """Return a layer's store over its rows, uint8 [slots, row_bytes]."""
        return _Fp8Store(self, rows) if self.fp8 else _PlainStore(self, rows)


class _PlainStore(LayerStore):
    def __init__(self, form: KVFormat, rows: torch.Tensor) -> None:
        self.entries = rows.view(form.dtype).view(-1, 2, form.num_kv_heads, form.head_dim)

    def scatter(self, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        self.entries[:, 0].index_copy_(0, slots, key)
        self.entries[:, 1].index_copy_(0, slots, value)

    def write(self, slot: int, key: torch.Tensor, value: torch.Tensor) -> None:
        part = self.entries[slot : slot + len(key)]
        part[:, 0] = key
        part[:, 1] = value

    def read(self, slot: int, count: int) -> Iterator[PageRun]:
        part = self.entries[slot : slot + count]
        yield PageRun(part[:, 0], part[:, 1])

    def join(self, slices: Sequence[tuple[int, int]]) -> Iterator[PageRun]:
        import torch

        part = torch.cat([self.entries[slot : slot + count] for slot, count in slices])
        yield PageRun(part[:, 0], part[:, 1])

    def gather(self, slots: torch.Tensor) -> Iterator[PageRun]:
        part = self.entries.index_select(0, slots)
        yield PageRun(part[:, 0], part[:, 1])


class _Fp8Store(LayerStore):
    def __init__(self, form: KVFormat, rows: torch.Tensor) -> None:
        import torch

        heads, dim = form.num_kv_heads, form.head_dim
        values = 2 * heads * dim
        self._dtype = form.dtype
        self.entries = rows[:, :values].view(torch.float8_e4m3fn).unflatten(1, (2, heads, dim))  # type: ignore[no-untyped-call]
        self.scales: torch.Tensor = rows[:, values:].view(torch.float32).unflatten(1, (2, heads))  # type: ignore[no-untyped-call]

    def scatter(self, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        import torch

        for index, given in enumerate((key, value)):
            quotient, scale = _quantized(given)
            self.scales[:, index].index_copy_(0, slots, scale)
            self.entries[:, index].view(torch.uint8).index_copy_(0, slots, quotient.view(torch.uint8))

    def write(self, slot: int, key: torch.Tensor, value: torch.Tensor) -> None:
        stop = slot + len(key)
        for index, given in enumerate((key, value)):
            self.entries[slot:stop, index], self.scales[slot:stop, index] = _quantized(given)

    def read(self, slot: int, count: int) -> Iterator[PageRun]:
        size = _DEQUANTIZED[self.entries.device.type]
        for start in range(slot, slot + count, size):
            stop = min(start + size, slot + count)
            yield self._run(self.entries[start:stop], self.scales[start:stop])

    def join(self, slices: Sequence[tuple[int, int]]) -> Iterator[PageRun]:
        import torch

        values = self.entries.view(torch.uint8)
        yield self._run(
            torch.cat([values[slot : slot + count] for slot, count in slices]).view(torch.float8_e4m3fn),
            torch.cat([self.scales[slot : slot + count] for slot, count in slices]),
        )

    def gather(self, slots: torch.Tensor) -> Iterator[PageRun]:
        import torch

        for part in torch.split(slots, _DEQUANTIZED[self.entries.device.type]):
            values = self.entries.view(torch.uint8).index_select(0, part).view(torch.float8_e4m3fn)
            yield self._run(values, self.scales.index_select(0, part))

    def _run(self, values: torch.Tensor, scales: torch.Tensor) -> PageRun:
        exact = values.to(self._dtype) * scales.unsqueeze(-1).to(self._dtype)
        return PageRun(exact[:, 0], exact[:, 1])


def _quantized(given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return E4M3 bytes and the float32 scale of each head, whose largest magnitude is the format's largest."""
    import torch

    exact = given.float()
    # A head of zeros has no scale of its own; any will do.
    scale = exact.abs().amax(-1).clamp_min(torch.finfo(torch.float32).tiny * _E4M3_MAX) / _E4M3_MAX
    # Rounding may carry a quotient past the largest magnitude, which E4M3 would turn into NaN.
    quotient = (exact / scale.unsqueeze(-1)).clamp(-_E4M3_MAX, _E4M3_MAX)
    return quotient.to(torch.float8_e4m3fn), scale
