"""Llama 4's mixture of experts: each token by its own experts, and all of them by the shared one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from farspan.builtin.kernels.operations import Operations

_LOG = logging.getLogger(__name__)
# What the grouped kernels want rows to begin at.
_ALIGNMENT_BYTES = 16


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """The experts of one layer. What a token's expert makes of it depends on the router's score, inside and outside.

    Attributes:
        router: [experts, hidden].
        gate_up: [experts + 1, 2 x width, hidden]; the last is the shared expert.
        down: [experts + 1, hidden, width].
        top_k: Experts a token.
        grouped: Whether all experts are computed in one product each way; otherwise one after another.
        operations: What is done between the products.
    """

    router: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    top_k: int
    grouped: bool
    operations: Operations

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mixture of x [tokens, hidden]."""
        logits = functional.linear(x, self.router)
        if len(x) <= self.operations.few_rows:
            return self.operations.few_experts(x, logits, self.gate_up, self.down, self.top_k)
        chosen, scores = self.operations.route(logits, self.top_k)
        inner = self.operations.silu_mul(functional.linear(x, self.gate_up[-1]))
        shared = functional.linear(inner, self.down[-1])
        mix = self._by_groups if self.grouped else self._one_by_one
        return mix(x, chosen, scores, shared)

    def _one_by_one(
        self, x: torch.Tensor, chosen: torch.Tensor, scores: torch.Tensor, output: torch.Tensor
    ) -> torch.Tensor:
        for expert in sorted(set(chosen.flatten().tolist())):
            token, slot = torch.where(chosen == expert)
            gate_up = functional.linear(x[token], self.gate_up[expert])
            inner = self.operations.silu_mul(gate_up, scores[token, slot])
            output.index_add_(0, token, functional.linear(inner, self.down[expert]))
        return output

    def _by_groups(
        self, x: torch.Tensor, chosen: torch.Tensor, scores: torch.Tensor, shared: torch.Tensor
    ) -> torch.Tensor:
        """Rows in order of their experts, so that each expert's are together; nothing waits for the device."""
        experts, order = chosen.flatten().int().sort(stable=True)
        count = len(self.router)
        ends = torch.searchsorted(
            experts, torch.arange(count, dtype=torch.int32, device=x.device), right=True
        ).int()
        rows = x.index_select(0, order if self.top_k == 1 else order // self.top_k)
        gate_up = _grouped_product(rows, self.gate_up[:count], ends)
        inner = self.operations.silu_mul(gate_up, scores.flatten()[order])
        mixed = _grouped_product(inner, self.down[:count], ends)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=x.device)
        return self.operations.sum_rows(shared, mixed, places.view(chosen.shape))


def _grouped_product(rows: torch.Tensor, weights: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return rows [n, inputs] x weights [groups, outputs, inputs], group i being the rows before `ends[i]`, int32."""
    product: Any = getattr(functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    if product is None:
        raise RuntimeError("this torch has no grouped matrix product")
    result: torch.Tensor = product(rows, weights.transpose(1, 2), offs=ends)
    return result


def grouped_product_works(device: torch.device, dtype: torch.dtype, hidden: int, width: int) -> bool:
    """Try the grouped product on the device that experts of these sizes are for, and compare it with plain ones.

    On a CPU the answer is no: one product after another is as fast there, and exact.
    """
    if device.type == "cpu":
        return False
    if any(size * dtype.itemsize % _ALIGNMENT_BYTES for size in (hidden, width)):
        _LOG.warning(
            "experts are computed one after another: rows of %d and %d are not aligned", hidden, width
        )
        return False
    return _trial(device, dtype)


def _trial(device: torch.device, dtype: torch.dtype) -> bool:
    try:
        generator = torch.Generator(device).manual_seed(0)
        rows = torch.randn(96, 64, device=device, dtype=dtype, generator=generator)
        weights = torch.randn(4, 128, 64, device=device, dtype=dtype, generator=generator)
        ends = [32, 32, 80, 96]
        actual = _grouped_product(rows, weights, torch.tensor(ends, dtype=torch.int32, device=device))
        starts = [0, *ends[:-1]]
        expected = torch.cat(
            [
                functional.linear(rows[start:end].float(), weights[group].float())
                for group, (start, end) in enumerate(zip(starts, ends, strict=True))
            ]
        )
        error = float((actual.float() - expected).abs().max())
    except Exception as problem:  # noqa: BLE001 whatever it is, the other way works
        _LOG.warning("experts are computed one after another: no grouped product here (%s)", problem)
        return False
    if error > 0.02 * float(expected.abs().max()):
        _LOG.warning("experts are computed one after another: grouped products are off by %.3g here", error)
        return False
    return True
