"""Write the recall checkpoint, or check a server of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from farspan.errors import InputError
from farspan.models.probe import KV_ROUNDING, ProbeDesign, recall_margin, required_margin, write_probe
from farspan.sizes import parse_tokens

if TYPE_CHECKING:
    from farspan.measurement.progress import Watcher
    from farspan.proof.check_probe import ProbeCheck


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


@overload
def probe(
    output: str | Path,
    *,
    heads: int = ...,
    kv_heads: int = ...,
    head_dim: int = ...,
    layers: int = ...,
    chunk: str | int = ...,
    max_context: str | int | None = ...,
    experts: int = ...,
) -> WrittenProbe: ...
@overload
def probe(
    output: str | Path | None = ...,
    *,
    check: str,
    max_context: str | int | None = ...,
    api_key: str | None = ...,
    watcher: Watcher | None = ...,
) -> ProbeCheck: ...
def probe(
    output: str | Path | None = None,
    *,
    check: str | None = None,
    heads: int = 8,
    kv_heads: int = 8,
    head_dim: int = 64,
    layers: int = 4,
    chunk: str | int = 8192,
    max_context: str | int | None = None,
    experts: int = 0,
    api_key: str | None = None,
    watcher: Watcher | None = None,
) -> WrittenProbe | ProbeCheck:
    """Write a tiny Llama 4 with constructed weights that copies back whatever followed a key, or check a server of it.

    Args:
        output: Folder to write; missing, empty, or an older recall checkpoint. With `check` the run folder of the
            questions; None keeps none.
        check: A server's address, or its name in `farspan status`: ask it ten questions at growing lengths, and say
            what the wrong answers point to.
        heads: Query heads, a power of two.
        kv_heads: KV heads; tensor parallelism can go so far.
        head_dim: 64, or 128 for a wider margin.
        layers: A multiple of 4; every fourth keeps all tokens.
        chunk: Attention chunk of the other layers, tokens.
        max_context: max_position_embeddings, tokens; 1Mi when None. With `check` the longest question; as long as
            the server takes when None.
        experts: Experts of the MoE layers; 0 for dense MLPs.
        api_key: With `check`, the server's key.
        watcher: With `check`, its methods are called as questions are asked.

    Raises:
        InputError: Dimensions that cannot be, or a folder that holds something else.
        NetworkError: There is no server to check.
    """
    if check is not None:
        from farspan.launch.started_servers import find_key
        from farspan.proof.check_probe import run_check
        from farspan.verbs.known_server import find_known_server

        record = find_known_server(check)
        if record is not None:
            check, api_key = record.url, api_key or find_key(record) or None
        longest = None if max_context is None else parse_tokens(str(max_context))
        folder = None if output is None else Path(output)
        return asyncio.run(run_check(check, longest=longest, run=folder, api_key=api_key, watcher=watcher))
    if output is None:
        raise InputError("no folder is given to write the checkpoint to", "name one with -o")
    design = ProbeDesign(
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        num_hidden_layers=layers,
        attention_chunk_size=parse_tokens(str(chunk)),
        max_position_embeddings=parse_tokens(str(max_context or "1Mi")),
        num_local_experts=experts,
    )
    made = write_probe(output, design)
    margins = {dtype: recall_margin(design, dtype) for dtype in KV_ROUNDING}
    return WrittenProbe(made.folder, made.size_bytes, design, margins)
