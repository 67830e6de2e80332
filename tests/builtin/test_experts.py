"""The mixture of experts, in groups and one after another."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dummy_models import write_config
from farspan.builtin import experts as module
from farspan.builtin.experts import ExpertLayer, grouped_product_works
from farspan.builtin.kernels.operations import Operations
from farspan.builtin.load_weights import LoadFormat
from farspan.builtin.model import LlamaModel


def experts_of(folder: Path, **changes: object) -> ExpertLayer:
    model = LlamaModel(write_config(folder, **changes), load_format=LoadFormat.DUMMY)
    made = model._layers[0].feed_forward
    assert isinstance(made, ExpertLayer)
    return made


def reference(experts: ExpertLayer, x: torch.Tensor) -> torch.Tensor:
    """Llama4TextMoe of transformers, token by token: the score scales what goes into the expert."""
    rows = []
    for token in x:
        scores = experts.router @ token
        total = experts.down[-1] @ silu_mul(experts.gate_up[-1] @ token)
        for expert in scores.topk(experts.top_k).indices.tolist():
            scaled = token * torch.sigmoid(scores[expert])
            total = total + experts.down[expert] @ silu_mul(experts.gate_up[expert] @ scaled)
        rows.append(total)
    return torch.stack(rows)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2)
    return torch.nn.functional.silu(gate) * up


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("tokens", [1, 5, 64])
def test_every_way_is_the_same_mixture(top_k: int, tokens: int, tmp_path: Path) -> None:
    experts = experts_of(tmp_path, num_experts_per_tok=top_k)
    x = torch.randn(tokens, 48, generator=torch.Generator().manual_seed(tokens))
    expected = reference(experts, x)
    assert expected.abs().max() > 0.1
    assert not experts.grouped, "a CPU has nothing of it"
    torch.testing.assert_close(experts(x), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(replace(experts, grouped=True)(x), expected, atol=1e-5, rtol=1e-4)
    few = Operations(experts.operations.config, torch.device("cpu"))
    few.few_rows = 64
    torch.testing.assert_close(replace(experts, operations=few)(x), expected, atol=1e-5, rtol=1e-4)


def test_experts_that_nobody_chooses(tmp_path: Path) -> None:
    experts = experts_of(tmp_path)
    experts.router.zero_()
    experts.router[2] = 1.0
    x = torch.rand(40, 48, generator=torch.Generator().manual_seed(1))
    actual = replace(experts, grouped=True)(x)
    torch.testing.assert_close(actual, reference(experts, x), atol=1e-5, rtol=1e-4)


def test_the_grouped_product_is_tried_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cpu = torch.device("cpu")
    assert not grouped_product_works(cpu, torch.bfloat16, 64, 64)
    # What a GPU is asked, asked of the CPU, whose answers are right.
    somewhere = torch.device("meta")
    right = module._grouped_product

    def trial(product: object) -> bool:
        monkeypatch.setattr(module, "_grouped_product", product)
        return module._trial(cpu, torch.bfloat16)

    assert trial(right)
    with caplog.at_level(logging.WARNING):
        assert not trial(lambda *given: right(*given) * 1.1)
        assert "experts are computed one after another: grouped products are off by" in caplog.text

        def refuse(*given: object) -> torch.Tensor:
            raise RuntimeError("grouped gemm is not supported on this device")

        assert not trial(refuse)
        assert "no grouped product here (grouped gemm is not supported on this device)" in caplog.text
        assert not grouped_product_works(somewhere, torch.bfloat16, 5120, 1001)
        assert "rows of 5120 and 1001 are not aligned" in caplog.text
