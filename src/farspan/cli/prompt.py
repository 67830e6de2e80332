"""`farspan prompt`: build prompts of exactly N tokens."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import click

from farspan.cli.measurement_options import api_key_option, corpus_options
from farspan.cli.options import parse_fraction
from farspan.cli.output import json_option
from farspan.errors import InputError
from farspan.prompts.tasks import TASKS, parse_task
from farspan.prompts.write_prompts import PromptFormat, WrittenPrompt, process_start
from farspan.sizes import format_seconds
from farspan.verbs.prompt import prompt

_EPILOG = """\b
Examples:
  farspan prompt --tokens 10M --tokenizer ./Llama-4-Scout -o prompt.txt --json
  farspan prompt --tokens 1M --tokenizer tokenizer.model --task needle --depth 0.3 --chat --verify -o prompt.txt
  farspan prompt --tokens 128k --tokenizer http://localhost:8000 --corpus book.txt -o prompt.txt
  farspan prompt --tokens 2M --tokenizer ./model --format ids -o prompt.npy        (or prompt.json)
  farspan prompt --tokens 1M --tokenizer ./model --seed 1 --number 50 -o prompts/
  farspan prompt --tokens 4k --tokenizer ./recall-checkpoint
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--tokens", metavar="SIZE", required=True, help="Exact length as the server counts: 10M, 64Ki, 12345."
)
@click.option(
    "--tokenizer",
    required=True,
    metavar="PATH|URL",
    help="Hugging Face folder, hub id, catalog name, tokenizer.json, tokenizer.model, or a server: its address, "
    "where it has /tokenize, or its name in farspan status.",
)
@corpus_options
@click.option(
    "--task",
    type=parse_task,
    default="needle",
    show_default=True,
    metavar=f"[{'|'.join(sorted(TASKS))}]",
    help="What is asked.",
)
@click.option(
    "--depth",
    type=parse_fraction,
    metavar="FRACTION",
    default="0.5",
    show_default=True,
    help="Where the needle lies, 0 to 1, or 30%.",
)
@click.option("--count", type=int, metavar="K", help="How many things to plant, or hops of a chain.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides everything random.")
@click.option("--chat", is_flag=True, help="The text is the user message of a chat; the template is counted.")
@click.option("--output-tokens", metavar="SIZE", help="How long the reply may be.")
@click.option(
    "--format",
    type=click.Choice([kind.value for kind in PromptFormat]),
    default="text",
    show_default=True,
    help="Write the text, the token ids as a numpy file (JSON to *.json or to standard output), or as JSON.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="-",
    show_default=True,
    help="Where to write; - is standard output.",
)
@click.option(
    "--number", type=click.IntRange(min=1), default=1, help="Build several, into the folder -o names."
)
@click.option("--verify", is_flag=True, help="Encode the whole prompt again and compare.")
@click.option(
    "--verify-with", metavar="PATH|URL", help="Another tokenizer that must agree, such as the server's."
)
@api_key_option
@json_option
def command(output: str, as_json: bool, **options: Any) -> None:
    """Build a prompt of exactly N tokens with something to find in it."""
    to_stdout = output == "-"
    if to_stdout and as_json:
        raise InputError("the prompt would be mixed with other output", "name a file or folder with -o")

    def show(written: WrittenPrompt) -> None:
        click.echo(json.dumps(dataclasses.asdict(written)) if as_json else _describe(written), err=to_stdout)

    prompt(
        output=None if to_stdout else output,
        stream=sys.stdout.buffer if to_stdout else None,
        since=process_start(),
        on_written=show,
        **options,
    )


def _describe(written: WrittenPrompt) -> str:
    verified = (
        f", verified in {format_seconds(written.verify_seconds)}"
        if written.verified_with
        else ", not verified"
    )
    lines = [
        *(f"! {warning}." for warning in written.warnings),
        f"{written.tokens:,} tokens in {format_seconds(written.seconds)}, "
        f"peak memory {written.peak_rss_mib:.0f} MiB{verified}",
        f"  text      {written.corpus}, seed {written.seed}",
        f"  task      {written.task}, depth {written.depth:g}, planted at {_positions(written)}",
        f"  answer    {written.answer or 'nothing planted'}",
        f"  encoded   by {written.backend} ({written.backend_reason})",
    ]
    return "\n".join(lines if written.path is None else [*lines, f"  written   {written.path}"])


def _positions(written: WrittenPrompt) -> str:
    shown = ", ".join(f"{position:,}" for position in written.needle_positions[:6])
    rest = len(written.needle_positions) - 6
    return (f"{shown} and {rest} more" if rest > 0 else shown) or "no token"
