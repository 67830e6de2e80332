"""Queries folded for heads that share keys, and the pieces in which a long context is attended to."""

from __future__ import annotations

import logging

import pytest
import torch

from farspan.builtin import fused_attention as module
from farspan.builtin.fused_attention import fused_attention, piece_sizes, unfold


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("heads", "kv_heads"), [(5, 1), (6, 2), (4, 4)])
def test_folded_queries_see_what_their_heads_do(heads: int, kv_heads: int) -> None:
    query = random(7, heads, 16)
    q = query.transpose(0, 1).unsqueeze(0)
    key, value = (random(1, kv_heads, 33 + seed, 16)[:, :, :33] for seed in (0, 1))
    group = heads // kv_heads
    expected = fused_attention(
        q, key.repeat_interleave(group, 1), value.repeat_interleave(group, 1), False, 0.25
    )
    folded = module._folded(q, kv_heads)
    assert folded.shape == (1, kv_heads, 7 * group, 16)
    if kv_heads == 1:
        assert folded.data_ptr() == query.data_ptr(), "one KV head needs no copy"
    actual = unfold(*fused_attention(folded, key, value, False, 0.25), heads)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_pieces_on_a_cpu_are_as_long_as_can_be() -> None:
    q = torch.empty(1, 5, 1024, 16)
    assert list(piece_sizes(q, 2**21 + 7)) == [2**20, 2**20, 7]
    assert list(piece_sizes(q, 0)) == []


def test_pieces_on_a_gpu_come_in_few_sizes() -> None:
    q = torch.empty(1, 5, 1024, 16, dtype=torch.bfloat16, device="meta")
    seen = set()
    for count in range(1, 2**21 + 5, 8191):
        sizes = list(piece_sizes(q, count))
        assert sum(sizes) == count
        seen |= {size for size in sizes if size % 1024 == 0}
    assert seen == {1024 << power for power in range(11)}
    odd = torch.empty(1, 5, 1000, 16, dtype=torch.bfloat16, device="meta")
    assert list(piece_sizes(odd, 5000)) == [5000], "flash attention takes any"


def test_cudnn_is_tried_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cpu = torch.device("cpu")
    trial = module.cudnn_is_right.__wrapped__
    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(module, "_cudnn", fused_attention)
        assert trial(cpu, torch.bfloat16, 64)
        assert not caplog.text
        assert not trial(cpu, torch.bfloat16, 96), "of no size that it was tried with"

        def wrong(*given: object) -> tuple[torch.Tensor, torch.Tensor]:
            output, logsum = fused_attention(*given)  # type: ignore[arg-type]
            return output, logsum / 0.6931

        monkeypatch.setattr(module, "_cudnn", wrong)
        assert not trial(cpu, torch.bfloat16, 64)
        assert "attention is torch's flash kernel: cuDNN's is off by" in caplog.text

        def refuse(*given: object) -> tuple[torch.Tensor, torch.Tensor]:
            raise RuntimeError("No execution plans support the graph")

        monkeypatch.setattr(module, "_cudnn", refuse)
        assert not trial(cpu, torch.bfloat16, 64)
        assert "cuDNN's is refused here (No execution plans support the graph)" in caplog.text
