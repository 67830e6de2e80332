"""Which cos/sin tables a config's RoPE fields make, where sliding layers have fields of their own."""

from __future__ import annotations

from typing import Any

import pytest

from farspan.models.config import spec_from_config
from farspan.models.tensors import RopeSpec

POSITIONS = 32768
LINEAR = {"rope_type": "linear", "factor": 8.0}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192}
PLAIN = RopeSpec(64, POSITIONS)


def tables(architecture: str, **fields: Any) -> tuple[RopeSpec, ...]:
    """The tables of six layers, every second of which slides."""
    config = {
        "architectures": [architecture],
        "model_type": "made_here",
        "hidden_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "intermediate_size": 1024,
        "vocab_size": 32000,
        "hidden_act": "silu",
        "max_position_embeddings": POSITIONS,
        "sliding_window": 1024,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        **fields,
    }
    return spec_from_config(config, "made here").ropes


@pytest.mark.parametrize("base", [{"rope_local_base_freq": 10000.0}, {}])
def test_a_common_scaling_is_that_of_full_layers_where_sliding_ones_have_a_base(
    base: dict[str, float],
) -> None:
    """Gemma 3; its larger configs leave the base to the default."""
    found = tables("Gemma3ForCausalLM", rope_scaling=LINEAR, **base)
    assert found == (RopeSpec(64, 8 * POSITIONS, "linear"), PLAIN)


def test_two_bases_are_two_tables_without_any_scaling() -> None:
    assert tables("Gemma3ForCausalLM", rope_theta=1e6, rope_scaling=None) == (PLAIN, PLAIN)


def test_sets_by_kind_are_tables_by_kind_and_equal_sets_share_one() -> None:
    local = {"rope_type": "default", "rope_theta": 10000.0}
    scaled = {"full_attention": {**LINEAR, "rope_theta": 1e6}, "sliding_attention": local}
    assert tables("Gemma3ForCausalLM", rope_parameters=scaled) == (
        RopeSpec(64, 8 * POSITIONS, "linear"),
        PLAIN,
    )
    other_base = {"full_attention": {**local, "rope_theta": 1e6}, "sliding_attention": local}
    assert tables("Gemma3ForCausalLM", rope_parameters=other_base) == (PLAIN, PLAIN)
    assert tables("Gemma3ForCausalLM", rope_parameters=dict.fromkeys(other_base, local)) == (PLAIN,)


def test_olmo_3_scales_full_layers_alone_with_one_base() -> None:
    assert tables("Olmo3ForCausalLM", rope_scaling=YARN) == (RopeSpec(64, 65536, "yarn"), PLAIN)
    assert tables("Olmo3ForCausalLM") == (PLAIN,)


@pytest.mark.parametrize("architecture", ["Gemma2ForCausalLM", "Cohere2ForCausalLM", "Rnj1ForCausalLM"])
def test_others_scale_sliding_layers_too_and_have_one_table(architecture: str) -> None:
    assert tables(architecture, rope_scaling=LINEAR) == (RopeSpec(64, 8 * POSITIONS, "linear"),)
