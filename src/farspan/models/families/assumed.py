"""A declaration guessed from the fields of a config whose architecture is in no table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from farspan.models.families.declaration import Experts, Family
from farspan.models.families.field_names import spellings


def _has(fields: Mapping[str, object], name: str) -> bool:
    return any(fields.get(spelling) not in (None, False, 0, [], "") for spelling in spellings(name))


def _linear(fields: Mapping[str, object]) -> str:
    """The kind of recurrent layers, by the fields that describe them."""
    if _has(fields, "linear_num_value_heads"):
        return "gdn"
    if _has(fields, "linear_num_heads") or _has(fields, "linear_attn_config"):
        return "kda"
    if _has(fields, "conv_L_cache"):
        return "conv"
    if _has(fields, "mamba_dt_rank"):
        return "mamba1"
    if any(_has(fields, name) for name in ("mamba_num_heads", "mamba_n_heads", "n_mamba_heads")):
        return "mamba2"
    if _has(fields, "attn_type_list") or _has(fields, "layer_group_size"):
        return "lightning"
    return ""


def assumed_family(fields: Mapping[str, object]) -> Family:
    """The plainest family that has what the fields speak of."""
    latent = _has(fields, "kv_lora_rank")
    family = Family(latent=latent, linear=_linear(fields))
    if fields.get("hidden_act") in ("relu2", "xielu"):
        family = replace(family, mlp="plain")
    if latent:
        family = replace(family, bias_qkv=False, bias_out=False)
    if _has(fields, "sliding_window_pattern"):
        family = replace(family, windows="pattern", period=4)
    elif _has(fields, "use_sliding_window"):
        family = replace(family, windows="some")
    elif _has(fields, "sliding_window"):
        family = replace(family, windows="all")
    for name in ("use_qk_norm", "qk_layernorm", "qk_norm"):
        if _has(fields, name):
            family = replace(family, qk_norm="head", harmless=(*family.harmless, name))
    if _has(fields, "num_experts"):
        shared = "width" if _has(fields, "shared_expert_intermediate_size") else "count"
        rule = "step" if _has(fields, "decoder_sparse_step") else "first_dense"
        family = replace(family, experts=Experts(rule, shared=shared))
    if isinstance(fields.get("tie_word_embeddings"), bool):
        family = replace(family, tied=bool(fields["tie_word_embeddings"]))
    return family
