"""The cos/sin table a RoPE configuration makes an engine build."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from farspan.models.families.config_fields import ConfigReader
from farspan.models.tensors import RopeSpec

_LARGEST_FACTOR = 1e6
# A base of sliding layers beside the common set.
_WINDOW_BASES = ("rope_local_base_freq", "rope_local_theta", "swa_rope_theta")
# What `rope_parameters` calls the layers that a set is for, and which of ours they are.
_LAYER_KINDS = {
    "full_attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "hybrid": "full",
    "hybrid_sliding": "sliding",
    "main": "full",
}


def rope_section(reader: ConfigReader) -> ConfigReader | None:
    """The RoPE parameters: `rope_parameters`, or `rope_scaling` as older configs call it."""
    new, old = reader.section("rope_parameters"), reader.section("rope_scaling")
    return new or old


def rope_table(reader: ConfigReader, head_dim: int, positions: int) -> RopeSpec:
    """Read the RoPE fields and size the table (vllm 0.32.0 layers/rotary_embedding/__init__.py: get_rope).

    The table has one row a position up to `max_position_embeddings`; YaRN's has
    `original_max_position_embeddings` x factor, linear and dynamic scaling lengthen it by their factor, and
    multimodal RoPE by 4.
    """
    reader.ignore("rope_theta")
    section = rope_section(reader)
    share = reader.number("partial_rotary_factor", 1.0)
    rotary = reader.integer("rotary_dim", 0) or 0
    if section is None:
        return RopeSpec(rotary or int(head_dim * share), positions)
    return section_table(section, head_dim, positions, share, rotary)


def rope_tables(
    reader: ConfigReader, head_dims: Mapping[str, int], positions: int, *, plain_windows: bool = False
) -> list[RopeSpec]:
    """Read the RoPE fields of a decoder whose layer kinds (full, sliding ...) have `head_dims`.

    `rope_parameters` holds one set for all layers, or one a kind (null for a kind that has none); kinds whose sets are
    equal share a table. Older configs give sliding layers a base of their own beside the common set, which then is
    that of full layers alone: sliding layers have the default table (vllm 0.24.0 models/gemma3.py: Gemma3Attention).

    Args:
        reader: The decoder's config.
        head_dims: Size of a head, by kind of layer.
        positions: The model's `max_position_embeddings`.
        plain_windows: Whether sliding layers are never scaled, without a base of their own too.
    """
    own_base = any(name in reader for name in _WINDOW_BASES)
    reader.ignore("rope_theta", "local_rope_theta", "rotary_emb_base", *_WINDOW_BASES)
    share = reader.number("partial_rotary_factor", reader.number("rotary_pct", 1.0))
    rotary = reader.integer("rotary_dim", 0)
    section = rope_section(reader)
    sizes = {kind: size for kind, size in head_dims.items() if size}
    window = RopeSpec(rotary or int(sizes.get("sliding", 0) * share), positions)
    if section is None:
        full = [RopeSpec(rotary or int(size * share), positions) for size in sizes.values()]
        return full if own_base else _distinct(full)
    nested = {
        kind: name
        for name, kind in _LAYER_KINDS.items()
        if isinstance(section.fields.get(name), Mapping | None) and name in section.fields
    }
    if not nested:
        full_table = section_table(section, next(iter(sizes.values()), 0), positions, share, rotary)
        if len(sizes) < 2 or "sliding" not in sizes:
            return [full_table]
        if own_base:
            return [full_table, window]
        return _distinct([full_table, window]) if plain_windows else [full_table]
    tables: dict[str, RopeSpec] = {}
    for name, kind in _LAYER_KINDS.items():
        own = section.section(name)
        if own is not None and kind in sizes:
            table = section_table(own, sizes[kind], positions, share, rotary)
            tables.setdefault(f"{table} {sorted(own.fields.items())}", table)
    section.ignore(*section.fields)
    return list(tables.values())


def _distinct(tables: Iterable[RopeSpec]) -> list[RopeSpec]:
    return list(dict.fromkeys(tables))


def section_table(
    section: ConfigReader, head_dim: int, positions: int, share: float = 1.0, rotary: int = 0
) -> RopeSpec:
    """Size the table of one set of RoPE parameters; `share` and `rotary` come from the level above."""
    kind = section.text("rope_type", section.text("type", "default"))
    section.ignore("rope_theta", "type", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")
    section.ignore("low_freq_factor", "high_freq_factor", "attention_factor", "long_factor", "short_factor")
    section.ignore(
        "mrope_interleaved", "llama_4_scaling_beta", "max_position_embeddings", "rope_type", "interleaved"
    )
    section.ignore("long_mscale", "short_mscale", "extrapolation_factor", "attn_factor", "alpha", "finetuned")
    share = section.number("partial_rotary_factor", share)
    if not 0 <= share <= 1:
        section.refuse("partial_rotary_factor", f"is {share:g}, no share of a head")
    factor = section.number("factor", 1.0)
    if not 0 < factor <= _LARGEST_FACTOR:
        section.refuse("factor", f"is {factor:g}, which stretches no position")
    original = section.integer("original_max_position_embeddings", positions)
    multimodal = "mrope_section" in section
    section.ignore("mrope_section")
    if kind in ("yarn", "deepseek_yarn", "xdrope"):
        positions = int(original * factor)
    elif kind in ("linear", "dynamic"):
        positions = int(positions * factor)
    elif kind not in (
        "default",
        "llama3",
        "proportional",
        "longrope",
        "mrope",
        "su",
        "axial",
        "dual_chunk",
        "gptj",
    ):
        section.refuse("rope_type", f"is {kind!r}, which farspan does not model")
    if multimodal:
        positions *= 4
    section.finish()
    # Gemma 4's proportional RoPE keeps a full-width table with identity rotations in it
    # (vllm 0.32.0 layers/rotary_embedding/gemma4_rope.py).
    size = head_dim if kind == "proportional" else (rotary or int(head_dim * share))
    return RopeSpec(size, positions, kind)
