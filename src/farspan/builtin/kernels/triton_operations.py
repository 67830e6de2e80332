"""The operations of a layer as Triton kernels: one launch where torch needs several."""

from __future__ import annotations

import math
from typing import Any

import torch

from farspan.builtin.fused_attention import Attended
from farspan.builtin.kernels import triton_kernels as kernels
from farspan.builtin.kernels.operations import Operations, PageView, Places
from farspan.builtin.model_config import LlamaConfig
from farspan.kv.formats import LayerStore

# Programs that attention of one step is split into, at the most: four a multiprocessor of the largest GPUs.
_PROGRAMS = 528
# Positions that one program of attention takes at a time.
_POSITIONS = 64
# Positions a program of a chunked-local layer has at least, so that joining costs less than reading.
_LEAST_SPAN = 128


class TritonOperations(Operations):
    """`Operations` with Triton; computes the same but for the rounding of intermediate results."""

    paged = True
    few_rows = 16

    def __init__(self, config: LlamaConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self._nothing = torch.empty(1, dtype=torch.float32, device=device)

    def add_norm(
        self, residual: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Operations.add_norm`."""
        tokens, hidden = residual.shape
        normed = torch.empty_like(residual)
        total = residual if delta is None else torch.empty_like(residual)
        block = _power_above(hidden)
        _launch(
            kernels.add_norm,
            (tokens,),
            *(residual, residual if delta is None else delta, weight, total, normed),
            self.config.rms_norm_eps,
            HIDDEN=hidden,
            BLOCK=block,
            ADD=delta is not None,
            num_warps=8 if block >= 4096 else 4,
        )
        return total, normed

    def silu_mul(self, gate_up: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """See `Operations.silu_mul`."""
        rows, width = len(gate_up), gate_up.shape[1] // 2
        output = gate_up.new_empty(rows, width)
        block = min(1024, _power_above(width))
        _launch(
            kernels.silu_mul,
            (rows, -(-width // block)),
            *(gate_up, self._nothing if scale is None else scale, output),
            WIDTH=width,
            BLOCK=block,
            SCALED=scale is not None,
        )
        return output

    def heads(
        self, qkv: torch.Tensor, places: Places, rope: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `Operations.heads`."""
        config = self.config
        query = qkv.new_empty(len(qkv), config.num_attention_heads, config.head_dim)
        key = qkv.new_empty(len(qkv), config.num_key_value_heads, config.head_dim)
        value = torch.empty_like(key)
        self._heads(qkv, places, rope, query, key, value, None, places.positions)
        return query, key, value

    def write_heads(
        self, qkv: torch.Tensor, places: Places, rope: bool, store: LayerStore, slots: torch.Tensor
    ) -> torch.Tensor:
        """See `Operations.write_heads`."""
        query = qkv.new_empty(len(qkv), self.config.num_attention_heads, self.config.head_dim)
        self._heads(qkv, places, rope, query, query, query, store, slots)
        return query

    def _heads(
        self,
        qkv: torch.Tensor,
        places: Places,
        rope: bool,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        store: LayerStore | None,
        slots: torch.Tensor,
    ) -> None:
        config = self.config
        temperature = None if rope else places.temperature
        entries, scales = (query, None) if store is None else (store.entries, store.scales)
        _launch(
            kernels.heads,
            (len(qkv), config.num_attention_heads + 2 * config.num_key_value_heads),
            *(qkv, query, key, value, places.cos, places.sin),
            self._nothing if temperature is None else temperature,
            *(slots, entries, self._nothing if scales is None else scales),
            *(entries.stride(0), 0 if scales is None else scales.stride(0)),
            config.rms_norm_eps,
            HEADS=config.num_attention_heads,
            KV_HEADS=config.num_key_value_heads,
            DIM=config.head_dim,
            BLOCK=_power_above(config.head_dim // 2),
            ROPE=rope,
            INTERLEAVED=rope and config.family == "llama4",
            NORM=rope and config.use_qk_norm,
            TUNED=temperature is not None,
            PAGED=store is not None,
            FP8=scales is not None,
            num_warps=1,
        )

    def join(self, part: Attended, other: Attended) -> Attended:
        """See `Operations.join`."""
        (output, logsum), (other_output, other_logsum) = part, other
        _, heads, tokens, dim = output.shape
        joined = output if output.dtype == torch.float32 else torch.empty_like(output, dtype=torch.float32)
        if joined.stride() != output.stride() or joined.stride(3) != 1 or other_output.stride(3) != 1:
            return super().join(part, other)
        whole = torch.empty(1, heads, tokens, dtype=torch.float32, device=output.device)
        rows = 32
        _launch(
            kernels.join,
            (-(-tokens // rows), heads),
            *(output, logsum, other_output, other_logsum, joined, whole, tokens),
            *(output.stride(1), output.stride(2), logsum.stride(1), logsum.stride(2)),
            *(other_output.stride(1), other_output.stride(2), other_logsum.stride(1), other_logsum.stride(2)),
            DIM=dim,
            BLOCK=_power_above(dim),
            ROWS=rows,
        )
        return joined, whole

    def attend_pages(
        self, query: torch.Tensor, positions: torch.Tensor, view: PageView, store: LayerStore
    ) -> torch.Tensor:
        """See `Operations.attend_pages`."""
        sequences, heads, dim = query.shape
        kv_heads = self.config.num_key_value_heads
        splits = self._splits(sequences * kv_heads, view)
        partial = torch.empty(sequences * heads, splits, dim, dtype=torch.float32, device=query.device)
        logsums = torch.empty(sequences * heads, splits, dtype=torch.float32, device=query.device)
        output = torch.empty_like(query)
        scales = store.scales
        row = store.entries.stride(0)
        unit = math.gcd(row, 16)  # what rows are aligned to, in elements
        _launch(
            kernels.attend_split,
            (splits, kv_heads, sequences),
            *(query, store.entries, self._nothing if scales is None else scales),
            *(view.table, view.rows, view.first_page, positions, partial, logsums),
            dim**-0.5 * math.log2(math.e),
            *(view.table.stride(0), row // unit, 0 if scales is None else scales.stride(0)),
            view.page_tokens,
            HEADS=heads,
            KV_HEADS=kv_heads,
            DIM=dim,
            UNIT=unit,
            GROUP=max(16, _power_above(heads // kv_heads)),
            SPLITS=splits,
            BLOCK=_POSITIONS,
            CHUNK=view.chunk or 0,
            FP8=scales is not None,
            num_warps=4,
            num_stages=2,
        )
        channels = min(32, dim)
        _launch(
            kernels.attend_join,
            (sequences * heads, dim // channels),
            *(partial, logsums, output),
            DIM=dim,
            CHANNELS=channels,
            SPLITS=splits,
            BLOCK=min(128, splits),
        )
        return output

    def _splits(self, parallel: int, view: PageView) -> int:
        """Return the parts of one sequence's positions: a power of two that fills the GPU and no more."""
        most = view.table.shape[1] * view.page_tokens
        wanted = min(_PROGRAMS // parallel, -(-most // _LEAST_SPAN))
        return 1 << max(0, wanted.bit_length() - 1)

    def few_experts(
        self, x: torch.Tensor, logits: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, top_k: int
    ) -> torch.Tensor:
        """See `Operations.few_experts`."""
        tokens, hidden = x.shape
        width, slots = down.shape[2], top_k + 1
        experts = torch.empty(tokens, slots, dtype=torch.int32, device=x.device)
        scores = torch.empty(tokens, slots, dtype=torch.float32, device=x.device)
        _launch(
            kernels.route,
            (tokens,),
            *(logits, experts, scores),
            EXPERTS=logits.shape[1],
            BLOCK=_power_above(logits.shape[1]),
            TOP=top_k,
            num_warps=1,
        )
        inner = x.new_empty(tokens * slots, width)
        columns = 8
        _launch(
            kernels.experts_up,
            (tokens * slots, -(-width // columns)),
            *(x, experts, scores, gate_up, inner),
            SLOTS=slots,
            HIDDEN=hidden,
            WIDTH=width,
            COLUMNS=columns,
            BLOCK=min(512, _power_above(hidden)),
        )
        output = torch.empty_like(x)
        _launch(
            kernels.experts_down,
            (tokens, -(-hidden // columns)),
            *(inner, experts, down, output),
            SLOTS=slots,
            HIDDEN=hidden,
            WIDTH=width,
            COLUMNS=columns,
            BLOCK=min(512, _power_above(width)),
        )
        return output

    def sum_rows(self, base: torch.Tensor, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """See `Operations.sum_rows`."""
        tokens, hidden = base.shape
        output = torch.empty_like(base)
        block = min(1024, _power_above(hidden))
        _launch(
            kernels.sum_rows,
            (tokens, -(-hidden // block)),
            *(base, rows, places, output),
            HIDDEN=hidden,
            BLOCK=block,
            EACH=places.shape[1],
        )
        return output


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    if all(grid):
        kernel[grid](*arguments, **constants)


def _power_above(value: int) -> int:
    """Return the least power of two that is not below `value`."""
    return 1 << max(0, value - 1).bit_length()
