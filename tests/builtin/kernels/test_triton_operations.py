"""The Triton kernels, run by Triton's interpreter on the CPU, against the same operations done with torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from farspan.builtin.kernels.operations import Operations, PageView
from farspan.builtin.kernels.triton_operations import TritonOperations
from farspan.builtin.model_config import LlamaConfig, read_config
from farspan.kv.formats import KVFormat, LayerStore

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


@pytest.fixture(scope="module", params=["llama4", "llama3"])
def config(request: pytest.FixtureRequest, probe_folder: Path) -> LlamaConfig:
    """Llama 4 interleaves rotated channels, norms them and tunes the temperature; Llama 3 does none of it."""
    read = replace(
        read_config(probe_folder), num_attention_heads=6, num_key_value_heads=2, head_dim=32, floor_scale=8.0
    )
    if request.param == "llama4":
        return replace(read, family="llama4", use_qk_norm=True, attn_temperature_tuning=True)
    return replace(read, family="llama3", use_qk_norm=False, attn_temperature_tuning=False)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    made: torch.dtype = request.param
    return made


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def store_of(config: LlamaConfig, dtype: torch.dtype, fp8: bool, slots: int) -> LayerStore:
    form = KVFormat(config.num_key_value_heads, config.head_dim, dtype, fp8)
    return form.store(torch.zeros(slots, form.row_bytes, dtype=torch.uint8))


def close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, scale: float = 1.0) -> None:
    assert actual.dtype == expected.dtype
    bound = TOLERANCE[dtype] * scale
    torch.testing.assert_close(actual.float(), expected.float(), atol=bound, rtol=bound)


@pytest.mark.parametrize("hidden", [64, 80])
def test_add_norm(config: LlamaConfig, dtype: torch.dtype, hidden: int) -> None:
    residual, delta = random(5, hidden, dtype=dtype), random(5, hidden, dtype=dtype, seed=1)
    weight = random(hidden, dtype=dtype)
    for added in (delta, None):
        for actual, expected in zip(
            TritonOperations(config, CPU).add_norm(residual, added, weight),
            Operations(config, CPU).add_norm(residual, added, weight),
            strict=True,
        ):
            close(actual, expected, dtype)


@pytest.mark.parametrize("scaled", [False, True])
def test_silu_mul(config: LlamaConfig, dtype: torch.dtype, scaled: bool) -> None:
    gate_up = random(7, 2 * 40, dtype=dtype)
    scale = torch.sigmoid(random(7)) if scaled else None
    actual = TritonOperations(config, CPU).silu_mul(gate_up, scale)
    close(actual, Operations(config, CPU).silu_mul(gate_up, scale), dtype)


@pytest.mark.parametrize("rope", [False, True])
def test_heads(config: LlamaConfig, dtype: torch.dtype, rope: bool) -> None:
    qkv = random(9, (6 + 2 * 2) * 32, dtype=dtype)
    torch_ones, triton_ones = Operations(config, CPU), TritonOperations(config, CPU)
    places = torch_ones.places(torch.tensor([0, 1, 7, 8, 100, 5000, 1_000_000, 3, 2]))
    for actual, expected in zip(
        triton_ones.heads(qkv, places, rope), torch_ones.heads(qkv, places, rope), strict=True
    ):
        close(actual, expected, dtype)


@pytest.mark.parametrize(("fp8", "rope"), [(False, True), (False, False), (True, False)])
def test_write_heads(config: LlamaConfig, dtype: torch.dtype, fp8: bool, rope: bool) -> None:
    qkv = random(4, (6 + 2 * 2) * 32, dtype=dtype)
    if fp8:
        # Values that E4M3 has, up to its largest: the interpreter of Triton 3.6 loses the carry of some roundings.
        exact = (qkv * 40).to(torch.float8_e4m3fn).to(dtype)
        exact[:, ::32] = 448
        qkv = exact / 2**8
    qkv[0, -64:-32] = 0  # a head of zeros
    torch_ones, triton_ones = Operations(config, CPU), TritonOperations(config, CPU)
    places = torch_ones.places(torch.tensor([3, -1, 70, 9]))
    slots = torch.tensor([11, -1, 2, 30])
    expected_store, actual_store = (store_of(config, dtype, fp8, 32) for _ in range(2))
    expected = torch_ones.write_heads(qkv, places, rope, expected_store, slots)
    close(triton_ones.write_heads(qkv, places, rope, actual_store, slots), expected, dtype)
    (wanted,), (got,) = expected_store.read(0, 32), actual_store.read(0, 32)
    for one, other in zip(got, wanted, strict=True):
        assert other[11].any()
        close(one, other, dtype)
        untouched = [slot for slot in range(32) if slot not in (11, 2, 30)]
        assert not one[untouched].any(), "a token that is not there was written"


@pytest.mark.parametrize("folded", [False, True])
def test_join(config: LlamaConfig, dtype: torch.dtype, folded: bool) -> None:
    """Parts lie as attention leaves them: [tokens, heads, channels] seen by head, or folded into one head."""
    torch_ones, triton_ones = Operations(config, CPU), TritonOperations(config, CPU)
    parts = []
    for seed in range(3):
        output = random(37, 6, 24, dtype=dtype, seed=seed).transpose(0, 1).unsqueeze(0)
        logsum = random(1, 6, 37, seed=seed) * 4
        if folded:
            output = random(1, 1, 37 * 6, 24, dtype=dtype, seed=seed)
            logsum = random(1, 37, 6, seed=seed).view(1, 1, 37 * 6) * 4
        parts.append((output, logsum))
    expected = torch_ones.join(torch_ones.join(parts[0], parts[1]), parts[2])
    actual = triton_ones.join(triton_ones.join(parts[0], parts[1]), parts[2])
    for one, other in zip(actual, expected, strict=True):
        close(one, other, torch.float32)


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("chunk", [None, 64])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16]
)  # the interpreter has no matrix product of bfloat16
def test_attend_pages(config: LlamaConfig, dtype: torch.dtype, chunk: int | None, fp8: bool) -> None:
    """Four sequences: one long, one that is not there, one of a single position, one that begins with a later page."""
    page_tokens, positions = 4, torch.tensor([701, -1, 0, 150])
    store = store_of(config, dtype, fp8, 256 * page_tokens)
    count = 256 * page_tokens
    store.write(0, random(count, 2, 32, dtype=dtype), random(count, 2, 32, dtype=dtype, seed=1))
    shuffled = torch.randperm(256, generator=torch.Generator().manual_seed(5)).int()
    table = torch.full((4, 180), -(2**30), dtype=torch.int32)  # what is behind a sequence's end is never read
    first = torch.tensor([0, 0, 0, 0 if chunk is None else 32])
    rows = torch.tensor([2, 0, 3, 1])
    for index, position in enumerate(positions.tolist()):
        pages = position // page_tokens + 1 - int(first[index])
        table[rows[index], : max(0, pages)] = shuffled[index * 40 : index * 40 + max(0, pages)].clone()
        if pages > 40:
            table[rows[index], :pages] = shuffled[:pages]
    view = PageView(table, rows, first, page_tokens, chunk)
    query = random(4, 6, 32, dtype=dtype)
    expected = Operations(config, CPU).attend_pages(query, positions, view, store)
    actual = TritonOperations(config, CPU).attend_pages(query, positions, view, store)
    assert expected[[0, 2, 3]].abs().amax((1, 2)).min() > 0
    assert torch.isfinite(actual).all()
    present = [0, 2, 3]
    close(actual[present], expected[present], dtype)


@pytest.mark.parametrize("top_k", [1, 2])
def test_few_experts(config: LlamaConfig, dtype: torch.dtype, top_k: int) -> None:
    experts, hidden, width = 5, 48, 20
    gate_up = random(experts + 1, 2 * width, hidden, dtype=dtype) / 7
    down = random(experts + 1, hidden, width, dtype=dtype) / 4
    x, logits = random(3, hidden, dtype=dtype), random(3, experts, dtype=dtype)
    expected = Operations(config, CPU).few_experts(x, logits, gate_up, down, top_k)
    actual = TritonOperations(config, CPU).few_experts(x, logits, gate_up, down, top_k)
    assert expected.abs().max() > 0.1
    close(actual, expected, dtype)


def test_sum_rows(config: LlamaConfig, dtype: torch.dtype) -> None:
    base, rows = random(4, 72, dtype=dtype), random(8, 72, dtype=dtype)
    places = torch.tensor([[7, 0], [1, 2], [5, 4], [3, 6]])
    actual = TritonOperations(config, CPU).sum_rows(base, rows, places)
    close(actual, Operations(config, CPU).sum_rows(base, rows, places), dtype)


def test_slots_follow_the_table() -> None:
    view = PageView(
        torch.tensor([[9, 8, 7], [3, 1, 2]], dtype=torch.int32),
        torch.tensor([1, 0, 0]),
        torch.tensor([0, 5, 0]),
        4,
        None,
    )
    assert view.slots(torch.tensor([6, 21, -1])).tolist() == [1 * 4 + 2, 9 * 4 + 1, -1]


def test_nothing_to_do_launches_nothing(config: LlamaConfig) -> None:
    assert TritonOperations(config, CPU).silu_mul(torch.empty(0, 8)).shape == (0, 4)
