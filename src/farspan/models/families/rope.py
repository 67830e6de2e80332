"""The cos/sin table a RoPE configuration makes an engine build."""

from __future__ import annotations

from farspan.models.families.config_fields import ConfigReader
from farspan.models.tensors import RopeSpec


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


def section_table(
    section: ConfigReader, head_dim: int, positions: int, share: float = 1.0, rotary: int = 0
) -> RopeSpec:
    """Size the table of one set of RoPE parameters; `share` and `rotary` come from the level above."""
    kind = section.text("rope_type", section.text("type", "default"))
    section.ignore("rope_theta", "type", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")
    section.ignore("low_freq_factor", "high_freq_factor", "attention_factor", "long_factor", "short_factor")
    section.ignore("mrope_interleaved")
    share = section.number("partial_rotary_factor", share)
    factor = section.number("factor", 1.0)
    original = section.integer("original_max_position_embeddings", positions)
    multimodal = "mrope_section" in section
    section.ignore("mrope_section")
    if kind in ("yarn", "deepseek_yarn"):
        positions = int(original * factor)
    elif kind in ("linear", "dynamic"):
        positions = int(positions * factor)
    elif kind not in ("default", "llama3", "proportional", "longrope"):
        section.refuse("rope_type", f"is {kind!r}, which farspan does not model")
    if multimodal:
        positions *= 4
    section.finish()
    # Gemma 4's proportional RoPE keeps a full-width table with identity rotations in it
    # (vllm 0.32.0 layers/rotary_embedding/gemma4_rope.py).
    size = head_dim if kind == "proportional" else (rotary or int(head_dim * share))
    return RopeSpec(size, positions, kind)
