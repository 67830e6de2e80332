"""Write the recall checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan.models.probe import KV_ROUNDING, ProbeDesign, recall_margin, required_margin, write_probe
from farspan.sizes import parse_tokens


@dataclass(frozen=True, slots=True)
class WrittenProbe:
    """A recall checkpoint on disk.

    Args:
        folder: The checkpoint.
        size_bytes: All its files.
        design: Its dimensions.
        margin_nats: By KV cache type: by how much the right key leads, at least.
    """

    folder: Path
    size_bytes: int
    design: ProbeDesign
    margin_nats: dict[str, float]

    @property
    def max_context(self) -> int:
        """The longest context in tokens."""
        return self.design.max_position_embeddings

    @property
    def required_margin_nats(self) -> float:
        """The lead that so many keys need."""
        return required_margin(self.max_context)

    def to_json(self) -> dict[str, Any]:
        """Folder, size, longest context and margins."""
        return {
            "folder": str(self.folder),
            "size_bytes": self.size_bytes,
            "max_context": self.max_context,
            "margin_nats": self.margin_nats,
            "required_margin_nats": self.required_margin_nats,
        }


def probe(
    output: str | Path,
    *,
    heads: int = 8,
    kv_heads: int = 8,
    head_dim: int = 64,
    layers: int = 4,
    chunk: str | int = 8192,
    max_context: str | int = "1Mi",
    experts: int = 0,
) -> WrittenProbe:
    """Write a tiny Llama 4 with constructed weights that copies back whatever followed a key.

    Args:
        output: Folder to write; missing, empty, or an older recall checkpoint.
        heads: Query heads, a power of two.
        kv_heads: KV heads; tensor parallelism can go so far.
        head_dim: 64, or 128 for a wider margin.
        layers: A multiple of 4; every fourth keeps all tokens.
        chunk: Attention chunk of the other layers, tokens.
        max_context: max_position_embeddings, tokens.
        experts: Experts of the MoE layers; 0 for dense MLPs.

    Raises:
        InputError: Dimensions that cannot be, or a folder that holds something else.
    """
    design = ProbeDesign(
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        num_hidden_layers=layers,
        attention_chunk_size=parse_tokens(str(chunk)),
        max_position_embeddings=parse_tokens(str(max_context)),
        num_local_experts=experts,
    )
    made = write_probe(output, design)
    margins = {dtype: recall_margin(design, dtype) for dtype in KV_ROUNDING}
    return WrittenProbe(made.folder, made.size_bytes, design, margins)
