"""Which kind each layer is, by whichever of the fields a config tells it with."""

from __future__ import annotations

import re

from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.declaration import Family

FULL, SLIDING, CHUNKED, LINEAR, MLP, EXPERTS, NOTHING = (
    "full",
    "sliding",
    "chunked",
    "linear",
    "mlp",
    "moe",
    "nothing",
)
_NAMES = {
    "full_attention": FULL,
    "attention": FULL,
    "indexed_attention": FULL,
    "sparse_attention": FULL,
    "global": FULL,
    "global_attention": FULL,
    "deepseek_sparse_attention": FULL,
    "minimax_m3_sparse": FULL,
    "hybrid": FULL,
    "sliding_attention": SLIDING,
    "sliding_window": SLIDING,
    "hybrid_sliding": SLIDING,
    "local_attention": SLIDING,
    "local": SLIDING,
    "chunked_attention": CHUNKED,
    "linear_attention": LINEAR,
    "mamba": LINEAR,
    "mamba2": LINEAR,
    "conv": LINEAR,
    "short_conv": LINEAR,
    "recurrent": LINEAR,
    "kda": LINEAR,
    "gated_deltanet": LINEAR,
    "mlp": MLP,
    "moe": EXPERTS,
}
# Nemotron-H's letters: Mamba, attention, MLP, experts.
_LETTERS = {"M": LINEAR, "*": FULL, "-": MLP, "E": EXPERTS}


def layer_kinds(reader: ConfigReader, family: Family, layers: int) -> list[str]:
    """The kind of each layer.

    Raises:
        UnsupportedError: A list does not have one entry a layer, or names a kind farspan does not know.
    """
    listed = _listed(reader, layers)
    kinds = listed or _ruled(reader, family, layers)
    reader.ignore("layer_types", "layers_block_type", "full_attention_interval", "sliding_window_pattern")
    reader.ignore("full_attn_idxs", "attn_layer_indices", "layer_group_size")
    positions = reader.integer("max_position_embeddings", 0)
    window = _window(reader)
    if window is None or (listed is None and positions and window >= positions):
        kinds = [FULL if kind == SLIDING else kind for kind in kinds]
    return kinds


def _window(reader: ConfigReader) -> int | None:
    value = reader.integer("sliding_window", 0)
    return value or None


def _listed(reader: ConfigReader, layers: int) -> list[str] | None:
    for name in ("layer_types", "layers_block_type"):
        if name not in reader:
            continue
        found = reader.texts(name)
        if len(found) != layers:
            reader.refuse(name, f"has {len(found)} entries for {layers} layers")
        unknown = sorted(set(found) - set(_NAMES))
        if unknown:
            reader.refuse(name, f"has an entry {unknown[0]!r}; known are {', '.join(_NAMES)}")
        return [_NAMES[kind] for kind in found]
    if "hybrid_override_pattern" in reader:
        pattern = reader.text("hybrid_override_pattern")
        letters = [letter for letter in pattern if letter != "|"]
        if set(letters) - set(_LETTERS) or len(letters) != layers:
            reader.refuse("hybrid_override_pattern", f"does not give one of M * - E for {layers} layers")
        return [_LETTERS[letter] for letter in letters]
    return None


def _ruled(reader: ConfigReader, family: Family, layers: int) -> list[str]:
    """By indices, periods and the family's rule."""
    indices = range(layers)
    section = reader.section("linear_attn_config") if family.linear == "kda" else None
    if section is not None and "kda_layers" in section:
        linear = {index - 1 for index in section.integers("kda_layers")}
        section.ignore("full_attn_layers")
        return [LINEAR if index in linear else FULL for index in indices]
    for name in ("attn_layer_indices", "full_attn_idxs", "attn_layers", "attn_type_list"):
        if name not in reader or not family.linear:
            continue
        found = reader.integers(name)
        if name == "attn_type_list":
            return [FULL if kind else LINEAR for kind in found]
        return [FULL if index in set(found) else LINEAR for index in indices]
    if "attn_layer_period" in reader:
        period, offset = (
            reader.integer("attn_layer_period"),
            reader.integer("attn_layer_offset", 0, zero=True),
        )
        return [FULL if index % period == offset else LINEAR for index in indices]
    if "full_attention_interval" in reader and family.linear:
        period = reader.integer("full_attention_interval")
        return [FULL if (index + 1) % period == 0 else LINEAR for index in indices]
    if "layer_group_size" in reader and family.linear:
        # Ring and Ling linear: each group ends in full attention, and the layers after the last whole group are full
        # (vllm 0.33.0 models/bailing_moe_linear.py).
        period = reader.integer("layer_group_size")
        whole = layers // period * period
        return [FULL if (index + 1) % period == 0 or index >= whole else LINEAR for index in indices]
    if family.linear and not family.parallel_mixers:
        return [LINEAR] * layers
    return _windowed(reader, family, layers)


def _windowed(reader: ConfigReader, family: Family, layers: int) -> list[str]:
    indices = range(layers)
    if family.windows == "all":
        return [SLIDING] * layers
    if family.windows == "some":
        if not reader.flag("use_sliding_window", False):
            return [FULL] * layers
        first = reader.integer("max_window_layers", 0, zero=True)
        return [SLIDING if index >= first else FULL for index in indices]
    if family.windows == "pattern":
        given = reader.fields.get("sliding_window_pattern")
        if isinstance(given, str) and re.fullmatch("[LG]+", given):
            reader.ignore("sliding_window_pattern")
            return [FULL if given[index % len(given)] == "G" else SLIDING for index in indices]
        period = reader.integer("sliding_window_pattern", family.period, zero=True)
        if period:
            return [FULL if (index + 1) % period == 0 else SLIDING for index in indices]
    return [FULL] * layers


def sparse_layers(reader: ConfigReader, rule: str, layers: int) -> list[bool]:
    """Which layers have experts."""
    indices = range(layers)
    if "mlp_layer_types" in reader:
        return [kind == "sparse" for kind in reader.per_layer("mlp_layer_types", layers, ["dense", "sparse"])]
    if "moe_layers_enum" in reader:  # Step 3
        text = reader.fields["moe_layers_enum"]
        reader.ignore("moe_layers_enum")
        listed = (
            [int(index) for index in str(text).split(",")]
            if isinstance(text, str)
            else reader.integers("moe_layers_enum")
        )
        return [index in set(listed) for index in indices]
    if isinstance(reader.fields.get("moe_layer_freq"), list):
        return [bool(entry) for entry in reader.per_layer("moe_layer_freq", layers, [0, 1])]
    if rule == "none":
        return [False] * layers
    first = reader.integer("first_k_dense_replace", 0, zero=True)
    step = reader.integer("moe_layer_freq", 1)
    if rule == "step":
        step = reader.integer("decoder_sparse_step", 1)
        dense = set(reader.integers("mlp_only_layers", []))
        return [index not in dense and index >= first and (index + 1) % step == 0 for index in indices]
    if rule == "period":
        step, offset = (
            reader.integer("expert_layer_period", 1),
            reader.integer("expert_layer_offset", 0, zero=True),
        )
        return [index % step == offset for index in indices]
    if rule == "range":
        start, end = (
            _first(reader, "moe_layer_start_index", 0),
            _first(reader, "moe_layer_end_index", layers - 1),
        )
        step = reader.integer("moe_layer_interval", 1)
        return [start <= index <= end and (index + 1) % step == 0 for index in indices]
    return [index >= first and index % step == 0 for index in indices]


def _first(reader: ConfigReader, name: str, default: int) -> int:
    """A whole number, or the first of a list (ERNIE's language experts come before its vision ones)."""
    value = reader.fields.get(name)
    reader.ignore(name)
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, int) and value >= 0 else default
