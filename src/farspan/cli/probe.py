"""`farspan probe`: write the recall checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from farspan.cli.output import json_option, print_json
from farspan.sizes import format_bytes, format_tokens
from farspan.verbs.probe import probe

EPILOG = """\b
Examples:
  farspan probe -o recall
  farspan probe -o recall --heads 16 --kv-heads 8 --experts 4 --max-context 10M
  python -m farspan.builtin recall
  vllm serve recall --max-model-len 1M
"""


@click.command(epilog=EPILOG, context_settings={"show_default": True})
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--heads", default=8, help="Query heads, a power of two.")
@click.option("--kv-heads", default=8, help="KV heads; tensor parallelism can go so far.")
@click.option("--head-dim", default=64, help="64, or 128 for a wider margin.")
@click.option("--layers", default=4, help="A multiple of 4; every fourth is full attention.")
@click.option("--chunk", default="8192", help="Attention chunk in tokens.")
@click.option("--max-context", default="1Mi", help="max_position_embeddings.")
@click.option("--experts", default=0, help="0 for dense MLPs.")
@json_option
def command(output: Path, as_json: bool, **sizes: Any) -> None:
    """Write the recall checkpoint: a tiny Llama 4 with constructed weights that copies back any needle.

    It is a standard Hugging Face folder for vLLM, SGLang, transformers and the built-in engine. Given a key
    planted anywhere in a prompt, it answers with the words that followed it.
    """
    made = probe(output, **sizes)
    if as_json:
        print_json(made.to_json())
        return
    longest = format_tokens(made.max_context)
    margins = ", ".join(f"{dtype} {margin:.1f}" for dtype, margin in made.margin_nats.items())
    click.echo(f"{made.folder}: {format_bytes(made.size_bytes)}, contexts up to {longest}")
    click.echo(f"The right key leads by at least this many nats; {longest} keys need")
    click.echo(f"{made.required_margin_nats:.1f}: {margins}")
