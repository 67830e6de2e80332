"""DeepSeek V4's caches as vLLM groups them: pages by hand, groups and needs as the engine's own code computes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from farspan.engines.registry import get_engine
from farspan.engines.vllm.compressed import CompressedLayout, compressed_layout, layer_specs
from farspan.engines.vllm.versions import rules_for
from farspan.errors import InputError
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.models.spec import KvDtype, LayerSpec, ModelSpec
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.sizes import GIB

FLASH = load_model("deepseek-v4-flash")


def _with_rates(model: ModelSpec, rates: list[int]) -> ModelSpec:
    """The model with layers of those rates, each copied from one that it has."""
    by_rate: dict[int, LayerSpec] = {layer.tokens_per_entry: layer for layer in model.layers}
    layers = tuple(replace(by_rate[rate], index=index) for index, rate in enumerate(rates))
    return replace(model, layers=layers)


# DeepSeek V4 Pro has 61 layers: two of rate 128, then one of 4 and one of 128 in turn, to the last.
PRO = _with_rates(FLASH, [128, 128, *([4, 128] * 30)][:61])
MTP = '{"method": "mtp", "num_speculative_tokens": 1}'
MODELS = {"flash": FLASH, "pro": PRO}
# (caches, bytes of their pages, tokens of a block) of each group, then blocks in 30 GB, bytes that a request of 200,000
# tokens needs with 8,192 in flight, and the requests printed: what vLLM's get_kv_cache_groups, get_kv_cache_configs and
# get_max_concurrency_for_kv_cache_config of each version returned for these caches.
OWN_CODE: list[tuple[str, tuple[str, ...], set[tuple[int, int, int]], int, int, float]] = [
    (
        "flash", ("0.20.2", "0.24.0", "0.26.0", "0.27.1"),
        {(62, 1_002_240, 256), (22, 823_680, 64), (21, 786_240, 64), (42, 967_680, 4), (20, 748_800, 8)},
        28_855, 4_350_145_536, 7.692615302585977,
    ),
    (
        "flash", ("0.28.0",),
        {(62, 1_002_240, 256), (22, 823_680, 64), (21, 786_240, 64), (42, 870_912, 4), (20, 656_640, 8)},
        29_932, 4_350_145_536, 7.2369439071566735,
    ),
    (
        "flash", ("0.29.0", "0.30.0", "0.33.0"),
        {(62, 1_002_240, 256), (22, 823_680, 64), (21, 786_240, 64), (42, 870_912, 4), (20, 656_640, 8)},
        29_932, 4_145_264_640, 7.2369439071566735,
    ),
    (
        "pro", ("0.24.0", "0.26.0"),
        {(91, 1_435_968, 256), (31, 1_160_640, 64), (30, 1_123_200, 64), (31, 1_160_640, 8), (60, 1_382_400, 4)},
        20_360, 6_129_750_528, 5.348043078539533,
    ),
    (
        "pro", ("0.28.0",),
        {(91, 1_435_968, 256), (31, 1_160_640, 64), (30, 1_123_200, 64), (31, 1_017_792, 8), (60, 1_244_160, 4)},
        20_891, 6_129_750_528, 5.051015473887814,
    ),
    (
        "pro", ("0.30.0", "0.33.0"),
        {(91, 1_435_968, 256), (31, 1_160_640, 64), (30, 1_123_200, 64), (31, 1_017_792, 8), (60, 1_244_160, 4)},
        20_891, 5_939_163_648, 5.051015473887814,
    ),
]  # fmt: skip


def _layout(version: str, model: ModelSpec = FLASH) -> CompressedLayout:
    return compressed_layout(model, rules_for(version)[0])


def test_every_cache_has_the_page_that_its_kernel_reads() -> None:
    specs = layer_specs(FLASH)
    # 64 latents of 584 bytes, 64 index keys of 132, 2 latents: each a multiple of 576.
    assert specs["layers.2.attn"].page_bytes == 64 * 584 + 64 == 37_440
    assert specs["layers.2.attn.indexer"].page_bytes == 64 * 132 + 192 == 8640
    assert specs["layers.3.attn"].page_bytes == 2 * 584 + 560 == 1728
    assert specs["layers.0.attn.window"].page_bytes == 37_440
    # Keys and scores in float32: of two windows of four tokens, or of 128 tokens in blocks of eight.
    state = specs["layers.2.attn.compressor"]
    assert (state.block_size, state.window, state.page_bytes) == (4, 8, 4 * 2048 * 4 + 64)
    assert specs["layers.2.attn.indexer.compressor"].page_bytes == 4 * 512 * 4 + 448
    state = specs["layers.3.attn.compressor"]
    assert (state.block_size, state.window, state.page_bytes) == (8, 128, 8 * 1024 * 4 + 64)
    assert len(specs) == 43 + 21 * 4 + 20 * 2


@pytest.mark.parametrize(("name", "versions", "groups", "blocks", "needed", "concurrency"), OWN_CODE)
def test_groups_are_those_of_the_engines_own_code(
    name: str,
    versions: tuple[str, ...],
    groups: set[tuple[int, int, int]],
    blocks: int,
    needed: int,
    concurrency: float,
) -> None:
    for version in versions:
        layout = _layout(version, MODELS[name])
        found = {(len(group.layers), group.bytes_per_block, group.spec.block_size) for group in layout.groups}
        assert found == groups
        assert layout.num_blocks(30_000_000_000) == blocks
        assert layout.needed_bytes(200_000, 8192) == needed
        assert layout.concurrency(blocks, 200_000, 8192) == pytest.approx(concurrency, rel=1e-12)


def test_the_need_is_what_a_public_server_printed() -> None:
    """vLLM 0.22 with batches of 16,384: 30,000 tokens want 6.66 GiB, and 13,528 are what 5.44 GiB hold.

    A comment of 2026-06-03 on vllm-project/vllm#44376.
    """
    layout = _layout("0.22.1")
    assert round(layout.needed_bytes(30_000, 16_384) / GIB, 2) == 6.66
    # Printed with two digits: 5.44 GiB is between 5.435 and 5.445.
    longest = {
        layout.estimated_max_model_len(int(gib * GIB), 30_000, 16_384) for gib in (5.4403, 5.4404, 5.4423)
    }
    assert 13_528 in longest
    assert max(longest) == 13_528


def _plan(version: str, *, kv: KvDtype = KvDtype.FP8, **flags: Any) -> EnginePlan:
    given = {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
    request = PlanRequest(
        FLASH, find_gpu("H200"), 8, 8, 1_000_000, kv_dtype=kv, engine_version=version, engine_flags=given
    )
    return get_engine("vllm").plan(request)


def test_a_million_tokens_are_planned() -> None:
    answer = _plan("0.33.0")
    assert answer.starts
    assert answer.fits
    assert _plan("0.33.0", kv=KvDtype.AUTO).starts


@pytest.mark.parametrize(
    ("version", "kv", "flags", "message"),
    [
        ("0.28.0", KvDtype.AUTO, {}, "keeps the latents of deepseek-v4-flash in FP8 alone"),
        ("0.33.0", KvDtype.BFLOAT16, {}, "keeps the latents of deepseek-v4-flash in FP8 alone"),
        ("0.33.0", KvDtype.FP8, {"block_size": "64"}, "whose kernels want 256"),
        ("0.33.0", KvDtype.FP8, {"disable_hybrid_kv_cache_manager": None}, "not mirrored"),
        ("0.33.0", KvDtype.FP8, {"speculative_config": MTP}, "not mirrored"),
    ],
)  # fmt: skip
def test_what_is_not_planned_is_refused(
    version: str, kv: KvDtype, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _plan(version, kv=kv, **flags)


def test_a_model_without_an_indexer_is_not_grouped() -> None:
    model = _with_rates(FLASH, [0, 128, 128])
    answer = get_engine("vllm").plan(
        PlanRequest(model, find_gpu("H200"), 8, 8, 1000, kv_dtype=KvDtype.FP8, engine_version="0.33.0")
    )
    assert not answer.starts
    assert "no layer with an indexer" in answer.reason
