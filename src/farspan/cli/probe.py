"""`farspan probe`: write the recall checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from farspan.cli.measurement_options import api_key_option
from farspan.cli.output import json_option, print_json
from farspan.errors import InputError
from farspan.escape_terminal import printable
from farspan.planner.text_layout import table
from farspan.sizes import format_bytes, format_tokens
from farspan.verbs.probe import probe

EPILOG = """\b
Examples:
  farspan probe -o recall
  farspan probe -o recall --heads 16 --kv-heads 8 --experts 4 --max-context 10M
  python -m farspan.builtin recall
  vllm serve recall --max-model-len 1M
  farspan probe --check http://localhost:8000
  farspan probe --check recall-builtin --max-context 100k

\b
Exit code: 0 written, or every answer is right; 1 one is wrong; 2 bad input.
"""


@click.command(epilog=EPILOG, context_settings={"show_default": True})
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write; with --check, the run folder."
)
@click.option(
    "--check",
    metavar="SERVER",
    help="Write nothing: ask a server, by its address or its name in farspan status, ten"
    " questions, and say what is broken.",
)
@click.option("--heads", default=8, help="Query heads, a power of two.")
@click.option("--kv-heads", default=8, help="KV heads; tensor parallelism can go so far.")
@click.option("--head-dim", default=64, help="64, or 128 for a wider margin.")
@click.option("--layers", default=4, help="A multiple of 4; every fourth is full attention.")
@click.option("--chunk", default="8192", help="Attention chunk in tokens.")
@click.option(
    "--max-context",
    help="max_position_embeddings; with --check the longest question.  [default: 1Mi; as long as it takes]",
)
@click.option("--experts", default=0, help="0 for dense MLPs.")
@api_key_option
@json_option
def command(output: Path | None, check: str | None, api_key: str | None, as_json: bool, **sizes: Any) -> int:
    """Write the recall checkpoint: a tiny Llama 4 with constructed weights that copies back any needle.

    It is a standard Hugging Face folder for vLLM, SGLang, transformers and the built-in engine. Given a key
    planted anywhere in a prompt, it answers with the words that followed it.
    """
    if check is not None:
        return _check(check, output, sizes["max_context"], api_key, as_json=as_json)
    if output is None:
        raise InputError("no folder is given to write the checkpoint to", "name one with -o")
    made = probe(output, **sizes)
    if as_json:
        print_json(made.to_json())
        return 0
    longest = format_tokens(made.max_context)
    margins = ", ".join(f"{dtype} {margin:.1f}" for dtype, margin in made.margin_nats.items())
    click.echo(f"{made.folder}: {format_bytes(made.size_bytes)}, contexts up to {longest}")
    click.echo(f"The right key leads by at least this many nats; {longest} keys need")
    click.echo(f"{made.required_margin_nats:.1f}: {margins}")
    return 0


def _check(url: str, run: Path | None, longest: str | None, api_key: str | None, *, as_json: bool) -> int:
    """Ask a server, and say what its answers point to."""
    from farspan.cli.live import PlainWatcher

    watcher = PlainWatcher(Console(stderr=True))
    checked = probe(run, check=url, max_context=longest, api_key=api_key, watcher=watcher)
    if as_json:
        print_json(checked.to_json())
        return 0 if checked.good else 1
    rows = [["tokens", "needle at", "came back", ""]]
    for answer in checked.answers:
        back = "nothing" if answer.score is None else f"{answer.score:.0%}"
        rows.append(
            [format_tokens(answer.context), f"{answer.depth:g}", back, "" if answer.right else "WRONG"]
        )
    for line in table(rows):
        click.echo(line)
    if checked.good:
        click.echo(f"Every key is found, up to {format_tokens(checked.answers[-1].context)}.")
        return 0
    click.echo(printable(f"Points to {checked.broken}: {checked.why}."))
    return 1
