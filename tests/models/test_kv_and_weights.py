"""Bytes of KV and weights against published figures and hand arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import InputError
from farspan.models import catalog
from farspan.models.config import load_model, override_weights
from farspan.models.spec import KvDtype, ModelSpec
from farspan.models.tensors import WeightPart
from farspan.models.weights import (
    active_parameters,
    checkpoint_bytes,
    rank_weight_bytes,
    rope_table_bytes,
    total_parameters,
    with_fp8_weights,
)

GIB = 2**30
SPECS = {name: load_model(name) for name in catalog.names()}


def test_scouts_rank_weighs_what_servers_reported() -> None:
    scout = load_model("llama-4-scout")
    rank = rank_weight_bytes(scout, 8).total + rope_table_bytes(scout, 2)
    # vLLM 0.12.0 printed 27.8072 GiB for a rank of the full model; its own scales and buffers are 3 MiB.
    assert rank / GIB == pytest.approx(27.8072, abs=0.004)
    vision = sum(
        rank_weight_bytes(scout, 8).by_part[part] for part in (WeightPart.VISION, WeightPart.PROJECTOR)
    )
    # A text-only shard of the same sizes printed 27.6.
    assert (rank - vision) / GIB == pytest.approx(27.6, abs=0.05)
    assert rope_table_bytes(scout, 2) == 10_485_760 * 128 * 2
    assert rope_table_bytes(scout, 4) == 5 * GIB


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-4-scout", 108.641793536),
        ("llama-3.1-8b", 8.030261248),
        ("llama-3.1-70b", 70.553706496),
        ("llama-3.1-405b", 405.853388800),
        ("mixtral-8x7b", 46.702792704),
        ("qwen3-30b-a3b", 30.532122624),
        ("deepseek-v3", 671.026419200),
    ],
)
def test_parameters_are_the_published_count(name: str, billions: float) -> None:
    assert total_parameters(load_model(name)).total == round(billions * 1e9)


@pytest.mark.parametrize(
    ("name", "billions", "tolerance"),
    [
        # What the publishers call active: 17B, 22B, 3B, 37B, 5.1B, 3.6B, 13B (embedding left out here).
        ("llama-4-scout", 17, 1.1),
        ("qwen3-235b-a22b", 22, 0.6),
        ("qwen3-30b-a3b", 3.3, 0.4),
        ("deepseek-v3", 37, 0.6),
        ("gpt-oss-120b", 5.1, 0.1),
        ("gpt-oss-20b", 3.6, 0.1),
        ("mixtral-8x7b", 12.9, 0.2),
    ],
)
def test_active_parameters_are_near_the_published_count(name: str, billions: float, tolerance: float) -> None:
    assert active_parameters(load_model(name)).total / 1e9 == pytest.approx(billions, abs=tolerance)


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("kimi-k2.5", 595),  # the published checkpoint's size
        ("gpt-oss-120b", 65.2),
        ("gpt-oss-20b", 13.76),
        ("llama-3.1-405b", 811.7),
    ],
)
def test_published_formats_weigh_the_published_size(name: str, gigabytes: float) -> None:
    assert checkpoint_bytes(load_model(name)) / 1e9 == pytest.approx(gigabytes, rel=0.005)


@pytest.mark.parametrize(("tp", "gib"), [(1, 13.64), (2, 7.01)])
def test_mxfp4_experts_are_padded_as_they_load(tp: int, gib: float) -> None:
    # "Model loading took" of vLLM 0.19.0 for gpt-oss-20b on H100; the files hold 12.8 GiB.
    assert rank_weight_bytes(load_model("gpt-oss-20b"), tp).total / 2**30 == pytest.approx(gib, rel=0.01)


@pytest.mark.parametrize(
    ("name", "tp", "bytes_a_token"),
    [
        ("llama-3.1-8b", 1, 32 * 2 * 8 * 128 * 2),
        ("llama-3.1-8b", 8, 32 * 2 * 1 * 128 * 2),
        ("llama-3.1-8b", 16, 32 * 2 * 1 * 128 * 2),  # KV heads are copied: more ranks hold no more
        ("llama-4-scout", 8, 48 * 2 * 128 * 2),
        ("deepseek-v3", 1, 61 * 576 * 2),
        ("deepseek-v3", 8, 61 * 576 * 2),  # a latent is whole on every rank
        ("deepseek-v3.2", 8, 61 * (576 * 2 + 132)),
        ("mimo-v2-flash", 4, (9 * 1 + 39 * 2) * (192 + 128) * 2),
        ("gemma-4-26b-a4b", 1, 5 * 2 * 2 * 512 * 2 + 25 * 2 * 8 * 256 * 2),
        ("qwen3.5-27b", 1, 16 * 2 * 4 * 256 * 2),
        ("minimax-m3", 1, 60 * 2 * 4 * 128 * 2 + 57 * 128 * 2),
    ],
)
def test_kv_bytes_a_token(name: str, tp: int, bytes_a_token: int) -> None:
    assert load_model(name).kv_bytes_per_token(KvDtype.AUTO, tp) == bytes_a_token


def test_fp8_halves_kv_but_not_an_indexer() -> None:
    model = load_model("deepseek-v3.2")
    assert model.kv_bytes_per_token(KvDtype.FP8_E4M3) == 61 * (576 + 132)
    scout = load_model("llama-4-scout")
    assert scout.kv_bytes_per_token(KvDtype.FP8, 8) == 48 * 2 * 128


def test_what_ten_million_tokens_must_keep_of_scout() -> None:
    scout = load_model("llama-4-scout")
    layer = 2 * 128 * 2
    assert scout.kv_bytes(10_000_000, KvDtype.AUTO, 8) == (12 * 10_000_000 + 36 * 8192) * layer
    assert scout.kv_bytes(100, KvDtype.AUTO, 8) == 48 * 100 * layer


def test_linear_layers_keep_a_state_and_compressed_ones_fold() -> None:
    qwen = load_model("qwen3.5-27b")
    linear = qwen.layers[0]
    # 48 value heads of 128 x 128 float32, and 3 tokens of 10,240 channels for the convolution.
    assert linear.state_bytes() == 48 * 128 * 128 * 4 + 10_240 * 3 * 2
    assert linear.kv_bytes(10**6, 2) == linear.state_bytes()
    assert linear.state_bytes(4) == 12 * 128 * 128 * 4 + 2_560 * 3 * 2
    flash = load_model("deepseek-v4-flash")
    window, folded = flash.layers[0], flash.layers[3]
    assert (window.tokens_per_entry, folded.tokens_per_entry) == (0, 128)
    assert window.kv_bytes(10**6, 2) == 128 * 512 * 2
    assert folded.kv_bytes(128_000, 2) == (128 + 1000) * 512 * 2 + folded.state_bytes()


@given(
    name=st.sampled_from(sorted(SPECS)),
    tp=st.sampled_from([1, 2, 4, 8, 16, 32]),
    context=st.integers(min_value=1, max_value=10**7),
)
def test_ranks_share_out_and_never_lose_bytes(name: str, tp: int, context: int) -> None:
    model = SPECS[name]
    one, rank = rank_weight_bytes(model, 1).total, rank_weight_bytes(model, tp).total
    assert one / tp <= rank + 1 <= one + 1
    kv, part = model.kv_bytes(context), model.kv_bytes(context, KvDtype.AUTO, tp)
    assert kv / tp <= part + 1 <= kv + 1
    assert model.kv_bytes(context) <= model.kv_bytes(context + 1)


def test_weight_formats_replace_the_checkpoints_own() -> None:
    plain = rank_weight_bytes(load_model("llama-3.1-70b")).total
    assert rank_weight_bytes(load_model("llama-3.1-70b", weights="fp8")).total < 0.53 * plain
    assert rank_weight_bytes(load_model("llama-3.1-70b", weights="int4")).total < 0.31 * plain
    kimi = total_parameters(load_model("kimi-k2.5")).total
    assert rank_weight_bytes(load_model("kimi-k2.5", weights="bf16")).total == pytest.approx(
        2 * kimi, rel=1e-3
    )
    llama = load_model("llama-3.1-70b")
    again = rank_weight_bytes(with_fp8_weights(llama)).total
    assert again == rank_weight_bytes(load_model("llama-3.1-70b", weights="fp8")).total
    with pytest.raises(InputError, match="not a weight format"):
        override_weights({}, "fp3")


def test_quantized_parts_of_gpt_oss_are_its_experts() -> None:
    model: ModelSpec = load_model("gpt-oss-20b")
    assert {tensor.part for tensor in model.weights if tensor.quantized} == {WeightPart.EXPERTS}
    kimi = load_model("kimi-k2.5")
    assert {tensor.part for tensor in kimi.weights if tensor.quantized} == {WeightPart.EXPERTS}
    deepseek = load_model("deepseek-v3")
    assert WeightPart.LM_HEAD not in {tensor.part for tensor in deepseek.weights if tensor.quantized}
    assert WeightPart.ROUTER not in {tensor.part for tensor in deepseek.weights if tensor.quantized}


@pytest.mark.parametrize(
    ("name", "tp", "message"),
    [
        ("llama-4-scout", 3, "does not divide the 40 attention heads"),
        ("llama-4-scout", 16, "does not divide the 40 attention heads"),
        ("llama-4-scout", 10, "does not fit the 8 KV heads"),
        ("llama-4-scout", 0, "does not divide"),
    ],
)
def test_tensor_parallel_sizes_the_heads_refuse(name: str, tp: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(name).check_tp(tp)
