"""Configs of odd shape, brought to the fields that the one reader knows, before it reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from farspan.errors import UnsupportedError

Fields = dict[str, object]


def chatglm(fields: Fields) -> Fields:
    """ChatGLM: half of each head is rotated, and the tying has a name of its own."""
    return {key: value for key, value in fields.items() if key not in _CHATGLM_NOISE}


_CHATGLM_NOISE = frozenset(
    {
        "apply_query_key_layer_scaling",
        "attention_softmax_in_fp32",
        "bias_dropout_fusion",
        "original_rope",
        "post_layer_norm",
        "rmsnorm",
        "fp32_residual_connection",
        "interleaved_qkv",
        "rope_ratio",
    }
)


def hunyuan(fields: Fields) -> Fields:
    """Hunyuan: experts may be given for a dense model, and shared layers of `use_cla` must be off."""
    changed = dict(fields)
    experts = changed.get("num_experts")
    if experts in (1, None, [1]) or (isinstance(experts, list) and set(experts) == {1}):
        changed.pop("num_experts", None)
    for name in (
        "cla_share_factor",
        "add_classification_head",
        "class_num",
        "group_limited_greedy",
        "kv_lora_rank",
        "q_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "use_mla",
        "use_mixed_mlp_moe",
        "moe_layer_num_skipped",
        "moe_drop_tokens",
        "moe_random_routing_dropped_token",
        "capacity_factor",
        "norm_type",
        "org_vocab_size",
        "mask_init_id",
        "im_end_id",
        "im_newline_id",
        "im_start_id",
        "image_token_id",
        "text_start_id",
        "text_end_id",
        "video_start_id",
        "video_end_id",
        "position_embedding_xdrope",
        "pool_type",
        "anyres_pooling_size",
        "anyres_vit_max_image_size",
        "anyres_vit_two_views",
        "max_image_size",
        "min_image_size",
        "num_media_embeds",
        "skip_cls_token",
        "vit_add_patchemb_bias",
        "vit_input_resolution",
        "vit_mapping_type",
        "vit_norm_type",
        "vit_patch",
        "vit_path",
        "vit_remove_prenorm",
        "vit_token",
        "vit_type",
        "vit_used_rms_norm",
        "xdrope_section",
        "use_rotary_pos_emb",
        "routed_scaling_factor",
        "eod_token_id",
    ):
        if name not in ("use_mla",) or not changed.get(name):
            changed.pop(name, None)
    if changed.get("attention_head_dim") and changed.get("head_dim") is None:
        changed["head_dim"] = changed.pop("attention_head_dim")
    return changed


def dbrx(fields: Fields) -> Fields:
    """DBRX: attention and experts have sections of their own."""
    changed = dict(fields)
    attention, experts = changed.pop("attn_config", {}), changed.pop("ffn_config", {})
    if not isinstance(attention, Mapping) or not isinstance(experts, Mapping):
        raise UnsupportedError(
            "attn_config and ffn_config are not objects", "use the model's complete config.json"
        )
    changed["num_key_value_heads"] = attention.get("kv_n_heads", 1)
    changed["num_experts"] = experts.get("moe_num_experts", 4)
    changed["num_experts_per_tok"] = experts.get("moe_top_k", 1)
    changed["ffn_hidden_size"] = experts.get("ffn_hidden_size", 3584)
    return changed


def mpt(fields: Fields) -> Fields:
    """MPT: grouped heads are in `attn_config`; ALiBi or learned positions."""
    changed = dict(fields)
    attention = changed.pop("attn_config", {})
    for name in (
        "ffn_config",
        "init_config",
        "no_bias",
        "learned_pos_emb",
        "logit_scale",
        "norm_type",
        "embedding_fraction",
    ):
        changed.pop(name, None)
    if isinstance(attention, Mapping) and attention.get("attn_type") == "multiquery_attention":
        changed["num_key_value_heads"] = 1
    elif isinstance(attention, Mapping) and attention.get("kv_n_heads"):
        changed["num_key_value_heads"] = attention["kv_n_heads"]
    ratio = changed.pop("expansion_ratio", 4)
    width = fields.get("d_model")
    if isinstance(ratio, int | float) and isinstance(width, int):
        changed["intermediate_size"] = int(ratio * width)
    return changed


def opt(fields: Fields) -> Fields:
    """OPT: an embedding narrower than the stream is not modelled."""
    changed = dict(fields)
    narrow = changed.pop("word_embed_proj_dim", None)
    if narrow is not None and narrow != changed.get("hidden_size"):
        raise UnsupportedError(
            f"field word_embed_proj_dim is {narrow}, not the hidden size, which farspan does not model",
            "plan for another size of OPT",
        )
    return changed


def falcon(fields: Fields) -> Fields:
    """Falcon: the KV heads, and whether a layer has two norms, depend on its generation."""
    changed = dict(fields)
    if changed.get("n_head") and changed.get("num_attention_heads") is None:
        changed["num_attention_heads"] = changed.pop("n_head")
    return changed


def laguna(fields: Fields) -> Fields:
    """Laguna: heads are listed a layer."""
    changed = dict(fields)
    listed = changed.pop("num_attention_heads_per_layer", None)
    if isinstance(listed, list) and len(set(listed)) > 1:
        raise UnsupportedError(
            "field num_attention_heads_per_layer differs between layers, which farspan does not model",
            "compare with a layout whose layers are alike",
        )
    if isinstance(listed, list) and listed:
        changed["num_attention_heads"] = listed[0]
    changed["gating"] = bool(changed.get("gating", True))
    return changed


def step(fields: Fields) -> Fields:
    """Step 3.5: sliding layers may have heads of their own, and experts are listed."""
    changed = dict(fields)
    other = changed.pop("attention_other_setting", None)
    if isinstance(other, Mapping):
        changed["swa_num_attention_heads"] = other.get(
            "num_attention_heads", changed.get("num_attention_heads")
        )
        changed["swa_num_key_value_heads"] = other.get(
            "num_attention_groups", changed.get("num_attention_groups")
        )
    groups = changed.pop("num_attention_groups", None)
    if groups is not None and changed.get("num_key_value_heads") is None:
        changed["num_key_value_heads"] = groups
    return {key: value for key, value in changed.items() if key != "per_layer_config"}


def ernie_vl(fields: Fields) -> Fields:
    """ERNIE VL: text and vision experts are listed in pairs; the vision ones are added after the layers.

    One count beside a pair of widths is the count of both.
    """
    changed = dict(fields)
    count, widths = changed.get("moe_num_experts"), changed.get("moe_intermediate_size")
    if isinstance(count, int) and isinstance(widths, list) and len(widths) == 2:
        changed["moe_num_experts"] = [count, count]
    for name in ("moe_num_experts", "moe_intermediate_size"):
        value = changed.get(name)
        if isinstance(value, list) and len(value) == 2:
            changed[name] = value[0]
            changed[f"vision_{name}"] = value[1]
    return changed


REWRITES: dict[str, Callable[[Fields], Fields]] = {
    "chatglm": chatglm,
    "hunyuan": hunyuan,
    "dbrx": dbrx,
    "ernie_vl": ernie_vl,
    "mpt": mpt,
    "opt": opt,
    "falcon": falcon,
    "laguna": laguna,
    "step": step,
}
