"""A KV cache of per-sequence blocks that grow with the sequence, under one budget.

Blocks of a full layer double in size up to a limit, so that a long sequence is a handful of runs and growing never
copies. A chunked-local layer has one block a chunk and drops it when the chunk is over. Sequences share nothing:
`cached_tokens` is always 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from farspan.kv.interface import KVCache, KVCacheError, KVStatistics, LayerRetention, Run, SequenceKV
from farspan.sizes import format_bytes

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_FIRST_BLOCK = 1024
_LARGEST_BLOCK = 65536


@dataclass(slots=True)
class _Block:
    start: int
    key: torch.Tensor
    value: torch.Tensor

    @property
    def stop(self) -> int:
        return self.start + int(self.key.shape[0])


@dataclass(slots=True)
class _Layer:
    retention: LayerRetention
    blocks: list[_Block] = field(default_factory=list)
    stop: int = 0  # where the next block starts


class GrowingKVCache(KVCache):
    """Room for sequences whose blocks are allocated as they grow.

    Args:
        layers: What each layer must keep.
        num_kv_heads: KV heads of every layer.
        head_dim: Channels of a head.
        dtype: Of keys and values.
        device: Where they live.
        max_step_tokens: The most positions appended between two calls of `SequenceKV.retain`.
        capacity_bytes: The most that open sequences may need at their full length, all together.
    """

    def __init__(
        self,
        *,
        layers: tuple[LayerRetention, ...],
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        max_step_tokens: int,
        capacity_bytes: int,
    ) -> None:
        self._layers = layers
        self._max_step = max_step_tokens
        self._shape = (num_kv_heads, head_dim)
        self._dtype = dtype
        self._device = device
        self._capacity = capacity_bytes
        self._open: dict[int, GrowingSequenceKV] = {}

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one position in one layer, keys and values."""
        return 2 * self._shape[0] * self._shape[1] * self._dtype.itemsize

    def needed_bytes(self, max_length: int) -> int:
        """Return the most a sequence of `max_length` positions takes: whole blocks, of what each layer retains.

        A chunked-local layer holds the chunk that a step starts in and those it runs through.
        """
        total = 0
        for layer in self._layers:
            blocks = _blocks(layer, max_length)
            if layer.chunk is not None:
                blocks = blocks[: 1 + -(-self._max_step // layer.chunk)]
            total += sum(tokens for _, tokens in blocks)
        return total * self.bytes_per_token

    def check_fits(self, max_length: int) -> int:
        """See `KVCache.check_fits`."""
        needed = self.needed_bytes(max_length)
        if needed > self._capacity:
            raise KVCacheError(
                f"{max_length} tokens need {format_bytes(needed)} of KV cache and there are "
                f"{format_bytes(self._capacity)}",
                "shorten the prompt or start the server with a larger --kv-cache-gib",
            )
        return needed

    def open(self, token_ids: NDArray[np.int32], max_length: int) -> SequenceKV | None:
        """See `KVCache.open`."""
        if len(token_ids) > max_length:
            raise KVCacheError(f"a sequence of {len(token_ids)} tokens cannot be opened for {max_length}")
        needed = self.check_fits(max_length)
        if needed > self._capacity - self._reserved():
            return None
        sequence = GrowingSequenceKV(self, max_length, needed)
        self._open[id(sequence)] = sequence
        return sequence

    def statistics(self) -> KVStatistics:
        """See `KVCache.statistics`."""
        return KVStatistics(
            capacity_bytes=self._capacity,
            allocated_bytes=sum(sequence.allocated_bytes for sequence in self._open.values()),
            reserved_bytes=self._reserved(),
            sequences=len(self._open),
            tokens=sum(sequence.length for sequence in self._open.values()),
        )

    def check_integrity(self) -> None:
        """See `KVCache.check_integrity`."""
        assert self._reserved() <= self._capacity, "more is promised than there is"
        for sequence in self._open.values():
            sequence.check_integrity()

    def _reserved(self) -> int:
        return sum(sequence.reserved_bytes for sequence in self._open.values())

    def new_block(self, start: int, tokens: int) -> _Block:
        """Allocate a block for positions [start, start + tokens)."""
        import torch

        shape = (tokens, *self._shape)
        return _Block(
            start,
            torch.empty(shape, dtype=self._dtype, device=self._device),
            torch.empty(shape, dtype=self._dtype, device=self._device),
        )

    def new_layers(self) -> list[_Layer]:
        """Return empty layers for a new sequence."""
        return [_Layer(retention) for retention in self._layers]

    def forget(self, sequence: GrowingSequenceKV) -> None:
        """Take a closed sequence off the books."""
        self._open.pop(id(sequence), None)


class GrowingSequenceKV(SequenceKV):
    """One sequence of a `GrowingKVCache`."""

    def __init__(self, cache: GrowingKVCache, max_length: int, reserved_bytes: int) -> None:
        self._cache = cache
        self._max_length = max_length
        self._length = 0
        self._layers = cache.new_layers()
        self.reserved_bytes = reserved_bytes

    @property
    def cached_tokens(self) -> int:
        """See `SequenceKV.cached_tokens`."""
        return 0

    @property
    def length(self) -> int:
        """See `SequenceKV.length`."""
        return self._length

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the blocks held now."""
        tokens = sum(block.stop - block.start for layer in self._layers for block in layer.blocks)
        return tokens * self._cache.bytes_per_token

    def append(self, count: int) -> None:
        """See `SequenceKV.append`."""
        length = self._length + count
        if length > self._max_length:
            raise KVCacheError(
                f"the sequence was opened for {self._max_length} tokens and would reach {length}"
            )
        new = [
            (layer, self._cache.new_block(start, tokens))
            for layer in self._layers
            for start, tokens in _blocks(layer.retention, self._max_length)
            if layer.stop <= start < length
        ]
        for layer, block in new:
            layer.blocks.append(block)
            layer.stop = block.stop
        self._length = length

    def write(self, layer: int, start: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """See `SequenceKV.write`."""
        done = 0
        for block, low, high in self._pieces(layer, start, start + int(key.shape[0])):
            count = high - low
            block.key[low:high] = key[done : done + count]
            block.value[low:high] = value[done : done + count]
            done += count

    def runs(self, layer: int, start: int, stop: int) -> list[Run]:
        """See `SequenceKV.runs`."""
        return [
            Run(block.key[low:high], block.value[low:high])
            for block, low, high in self._pieces(layer, start, stop)
        ]

    def retain(self, position: int) -> None:
        """See `SequenceKV.retain`."""
        for layer in self._layers:
            first = layer.retention.first_needed(position)
            while layer.blocks and layer.blocks[0].stop <= first:
                del layer.blocks[0]

    def close(self) -> None:
        """See `SequenceKV.close`."""
        self._cache.forget(self)
        for layer in self._layers:
            layer.blocks.clear()
        self._length = 0
        self.reserved_bytes = 0

    def check_integrity(self) -> None:
        """Raise AssertionError when a layer has a gap, or the sequence more than it was promised."""
        assert self.allocated_bytes <= self.reserved_bytes, "a sequence holds more than it reserved"
        for layer in self._layers:
            for earlier, later in zip(layer.blocks, layer.blocks[1:], strict=False):
                assert earlier.stop == later.start, "blocks must follow one another"
            assert layer.stop >= self._length, "blocks cover every position"
            assert not layer.blocks or layer.blocks[-1].stop == layer.stop, "the last block is the newest"

    def _pieces(self, layer: int, start: int, stop: int) -> list[tuple[_Block, int, int]]:
        """Return (block, low, high) covering positions [start, stop), low and high counted inside the block."""
        blocks = self._layers[layer].blocks
        if start < stop and (stop > self._length or not blocks or start < blocks[0].start):
            raise AssertionError(f"positions [{start}, {stop}) of layer {layer} are not held")
        return [
            (block, max(start, block.start) - block.start, min(stop, block.stop) - block.start)
            for block in blocks
            if block.start < stop and block.stop > start
        ]


def _blocks(layer: LayerRetention, length: int) -> list[tuple[int, int]]:
    """Return (start, tokens) of a layer's blocks for `length` positions; the last is cut to what is left."""
    blocks: list[tuple[int, int]] = []
    start, size = 0, layer.chunk or _FIRST_BLOCK
    while start < length:
        blocks.append((start, min(size, length - start)))
        start += size
        if layer.chunk is None:
            size = min(2 * size, _LARGEST_BLOCK)
    return blocks
