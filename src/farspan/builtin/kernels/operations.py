"""What a layer does between its matrix products, with torch's own operations: the reference, and what a CPU runs.

`TritonOperations` does the same in one kernel each.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from farspan.builtin.attention import attend_runs
from farspan.builtin.fused_attention import Attended, join_attended
from farspan.builtin.model_config import LlamaConfig
from farspan.builtin.rope import inverse_frequencies, rotate, rotation
from farspan.kv.formats import LayerStore


class Places(NamedTuple):
    """What follows from the positions of a step's tokens."""

    positions: torch.Tensor  # int64 [tokens]; -1 for a token that is not there
    cos: torch.Tensor  # float32 [tokens, 1, head_dim / 2]
    sin: torch.Tensor
    temperature: torch.Tensor | None  # float32 [tokens], what a query of a layer without RoPE is scaled by


class PageView(NamedTuple):
    """Where the keys of some sequences lie in one kind of layers, as data on the device.

    Sequence i's positions from `first_page[i] * page_tokens` on lie in the pages of `table[rows[i]]`, in order.
    """

    table: torch.Tensor  # int32 [rows, most pages of a sequence]
    rows: torch.Tensor  # int64 [sequences]
    first_page: torch.Tensor  # int64 [sequences]
    page_tokens: int
    chunk: int | None  # attention reaches back to the start of the query's chunk; None: to the first position

    def slots(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the slot of one position of each sequence, int64; -1 where the position is."""
        page = (positions.clamp_min(0) // self.page_tokens - self.first_page).clamp_min(0)
        slot = self.table[self.rows, page].long() * self.page_tokens + positions % self.page_tokens
        return slot.masked_fill(positions < 0, -1)


class Operations:
    """The operations of one model's layers.

    Args:
        config: The model's.
        device: Where it runs.

    Attributes:
        paged: Whether `write_heads` and `attend_pages` are fast enough to decode with: on a CPU views of the cache
            are, which these would copy.
        few_rows: The most tokens that `few_experts` is meant for.
        refused: Kernels that this device refused.
    """

    paged = False
    few_rows = 0
    refused: frozenset[str] = frozenset()

    def __init__(self, config: LlamaConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self._frequencies = inverse_frequencies(config).to(device)

    def places(self, positions: torch.Tensor) -> Places:
        """Return what follows from positions, int64 [tokens]."""
        config = self.config
        cos, sin = rotation(positions, self._frequencies)
        temperature = None
        if config.attn_temperature_tuning:
            # https://arxiv.org/abs/2501.19399; transformers modeling_llama4.py: Llama4TextAttention.forward
            steps = torch.floor((positions.float() + 1.0) / config.floor_scale)
            temperature = torch.log1p(steps) * config.attn_scale + 1.0
        return Places(positions, cos, sin, temperature)

    def add_norm(
        self, residual: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return residual + delta and its RMS norm, each [tokens, hidden]."""
        total = residual if delta is None else residual + delta
        return total, functional.rms_norm(total, (total.shape[-1],), weight, self.config.rms_norm_eps)

    def silu_mul(self, gate_up: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """Return silu(gate) x up of [rows, gate and up], both times a float32 scale a row where one is given."""
        if scale is not None:
            gate_up = (gate_up * scale[:, None]).to(gate_up.dtype)
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate) * up

    def heads(
        self, qkv: torch.Tensor, places: Places, rope: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values [tokens, heads, head_dim] as attention takes them: rotated, normed, tuned."""
        config = self.config
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        query, key, value = (
            part.reshape(len(qkv), -1, dim)
            for part in torch.split(qkv, [heads * dim, kv_heads * dim, kv_heads * dim], dim=-1)
        )
        if rope:
            interleaved = config.family == "llama4"
            query = rotate(query, places.cos, places.sin, interleaved=interleaved)
            key = rotate(key, places.cos, places.sin, interleaved=interleaved)
            if config.use_qk_norm:
                query, key = self._unit_norm(query), self._unit_norm(key)
        elif places.temperature is not None:
            query = (query * places.temperature[:, None, None]).to(query.dtype)
        return query, key, value

    def write_heads(
        self, qkv: torch.Tensor, places: Places, rope: bool, store: LayerStore, slots: torch.Tensor
    ) -> torch.Tensor:
        """Return the queries that `heads` does and put keys and values into slots, int64 [tokens]; -1 for nowhere."""
        query, key, value = self.heads(qkv, places, rope)
        there = slots >= 0
        store.scatter(slots[there], key[there], value[there])
        return query

    def join(self, part: Attended, other: Attended) -> Attended:
        """See `join_attended`; the first part may be overwritten."""
        return join_attended(part, other)

    def attend_pages(
        self, query: torch.Tensor, positions: torch.Tensor, view: PageView, store: LayerStore
    ) -> torch.Tensor:
        """Return attention of one query a sequence, [sequences, heads, head_dim], up to its own position.

        A sequence whose position is -1 is not there; what is returned for it is finite.
        """
        outputs = torch.zeros_like(query)
        for index, position in enumerate(positions.tolist()):
            if position < 0:
                continue
            start = 0 if view.chunk is None else position // view.chunk * view.chunk
            seen = torch.arange(start, position + 1, device=query.device)
            page = view.table[view.rows[index], seen // view.page_tokens - view.first_page[index]].long()
            runs = store.gather(page * view.page_tokens + seen % view.page_tokens)
            outputs[index] = attend_runs(query[index : index + 1], runs, query.shape[-1] ** -0.5)[0]
        return outputs

    def route(self, logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each token's experts, int64 [tokens, top_k], and the float32 sigmoid of their logits."""
        scores, chosen = logits.topk(top_k, dim=-1)
        return chosen, torch.sigmoid(scores.float())

    def few_experts(
        self, x: torch.Tensor, logits: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, top_k: int
    ) -> torch.Tensor:
        """Return the mixture of few tokens, reading no more weights than those of their experts.

        Args:
            x: [tokens, hidden].
            logits: The router's, [tokens, experts].
            gate_up: [experts + 1, 2 x width, hidden]; the last is the shared expert.
            down: [experts + 1, hidden, width].
            top_k: Experts a token.
        """
        chosen, scores = self.route(logits, top_k)
        shared = len(gate_up) - 1
        outputs = []
        for token, experts in enumerate(chosen.tolist()):
            row = x[token : token + 1]
            total = functional.linear(self.silu_mul(functional.linear(row, gate_up[shared])), down[shared])
            for slot, expert in enumerate(experts):
                inner = functional.linear(row, gate_up[expert])
                total = total + functional.linear(
                    self.silu_mul(inner, scores[token, slot, None]), down[expert]
                )
            outputs.append(total)
        return torch.cat(outputs)

    def sum_rows(self, base: torch.Tensor, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return base [tokens, hidden] plus, for each token, the rows that `places`, int64 [tokens, k], names."""
        return base + rows[places].sum(1).to(base.dtype)

    def _unit_norm(self, x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x.float(), (x.shape[-1],), None, self.config.rms_norm_eps).to(x.dtype)
