"""`farspan probe`: write the recall checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import orjson

from farspan.models.probe import (
    KV_ROUNDING,
    ProbeDesign,
    recall_margin,
    required_margin,
    write_probe,
)
from farspan.sizes import format_bytes, format_tokens, parse_tokens

EPILOG = """\b
Examples:
  farspan probe -o recall
  farspan probe -o recall --heads 16 --kv-heads 8 --experts 4 --max-context 10M
  python -m farspan.builtin recall
  vllm serve recall --max-model-len 1M
"""


@click.command(epilog=EPILOG, context_settings={"show_default": True})
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), required=True, help="Folder to write."
)
@click.option("--heads", "num_attention_heads", default=8, help="Query heads, a power of two.")
@click.option(
    "--kv-heads", "num_key_value_heads", default=8, help="KV heads; tensor parallelism can go so far."
)
@click.option("--head-dim", default=64, help="64, or 128 for a wider margin.")
@click.option(
    "--layers", "num_hidden_layers", default=4, help="A multiple of 4; every fourth is full attention."
)
@click.option("--chunk", "attention_chunk_size", default="8192", help="Attention chunk in tokens.")
@click.option("--max-context", "max_position_embeddings", default="1Mi", help="max_position_embeddings.")
@click.option("--experts", "num_local_experts", default=0, help="0 for dense MLPs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def command(
    folder: Path, attention_chunk_size: str, max_position_embeddings: str, as_json: bool, **sizes: Any
) -> None:
    """Write the recall checkpoint: a tiny Llama 4 with constructed weights that copies back any needle.

    It is a standard Hugging Face folder for vLLM, SGLang, transformers and the built-in engine. Asked with a key
    planted anywhere in a prompt, it answers with the words that followed it.
    """
    design = ProbeDesign(
        attention_chunk_size=parse_tokens(attention_chunk_size),
        max_position_embeddings=parse_tokens(max_position_embeddings),
        **sizes,
    )
    made = write_probe(folder, design)
    longest = design.max_position_embeddings
    margins = {dtype: recall_margin(design, dtype) for dtype in KV_ROUNDING}
    if as_json:
        summary = {
            "folder": str(made.folder),
            "size_bytes": made.size_bytes,
            "max_context": longest,
            "margin_nats": margins,
            "required_margin_nats": required_margin(longest),
        }
        click.echo(orjson.dumps(summary, option=orjson.OPT_INDENT_2))
        return
    click.echo(f"{made.folder}: {format_bytes(made.size_bytes)}, contexts up to {format_tokens(longest)}")
    click.echo(f"The right key leads by at least this many nats; {format_tokens(longest)} keys need")
    click.echo(f"{required_margin(longest):.1f}: " + ", ".join(f"{d} {m:.1f}" for d, m in margins.items()))
