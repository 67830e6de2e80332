"""The cos/sin table a RoPE configuration makes an engine build."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from farspan.models.families.config_fields import ConfigReader
from farspan.models.tensors import RopeSpec

_LARGEST_FACTOR = 1e6
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


def rope_tables(reader: ConfigReader, head_dims: Mapping[str, int], positions: int) -> list[RopeSpec]:
    """Read the RoPE fields of a decoder whose layer kinds (full, sliding ...) have `head_dims`.

    `rope_parameters` holds one set for all layers, or one a kind (null for a kind that has none); older configs give
    sliding layers a base of their own beside the common set.
    """
    own_base = "rope_local_base_freq" in reader or "swa_rope_theta" in reader
    reader.ignore(
        "rope_theta", "rope_local_base_freq", "swa_rope_theta", "local_rope_theta", "rotary_emb_base"
    )
    share = reader.number("partial_rotary_factor", reader.number("rotary_pct", 1.0))
    rotary = reader.integer("rotary_dim", 0)
    section = rope_section(reader)
    sizes = {kind: size for kind, size in head_dims.items() if size}
    if section is None:
        return _distinct(RopeSpec(rotary or int(size * share), positions) for size in sizes.values())
    nested = {
        kind: name
        for name, kind in _LAYER_KINDS.items()
        if isinstance(section.fields.get(name), Mapping | None) and name in section.fields
    }
    if not nested:
        full = section_table(section, next(iter(sizes.values()), 0), positions, share, rotary)
        return [full, full] if own_base and len(sizes) > 1 else [full]
    tables = []
    for name, kind in _LAYER_KINDS.items():
        own = section.section(name)
        if own is not None and kind in sizes:
            tables.append(section_table(own, sizes[kind], positions, share, rotary))
    section.ignore(*section.fields)
    return tables


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
