"""`farspan bench`: send exact-length prompts to a server and measure."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console

from farspan.bench.client import Limits
from farspan.bench.prepare import PromptAs
from farspan.bench.run import BenchOptions, run_bench
from farspan.bench.summary import summarise
from farspan.bench.wire import Api
from farspan.cli.live import choose_watcher
from farspan.cli.options import parse_fractions, parse_json_object
from farspan.cli.points import print_failures, print_points, stdout_console
from farspan.errors import InputError
from farspan.sizes import parse_token_list

EPILOG = """\b
Examples:
  farspan bench --url http://localhost:8000 --contexts 10k,100k,1M
  farspan bench --url http://localhost:8000 --contexts 1M --depths 0.1,0.9 --run runs/a
  farspan bench --url http://localhost:8000 --contexts 1M,2M --depths 0.1,0.9 --run runs/a --resume
  farspan bench --url http://localhost:8000 --contexts 100k --concurrency 8 --api chat --json

\b
Exit code: 0 every request was answered and right; 1 some request failed or was wrong;
2 bad input, or no request was answered at all."""


@click.command(epilog=EPILOG, context_settings={"max_content_width": 110})
@click.option(
    "--url", "--base-url", required=True, help="The server's address, such as http://localhost:8000."
)
@click.option("--model", help="The model's name as the server knows it.  [default: the first it lists]")
@click.option(
    "--contexts",
    "--input-len",
    type=parse_token_list,
    metavar="SIZES",
    required=True,
    help="Prompt lengths in tokens as the server counts them, such as 10k,100k,1M.",
)
@click.option(
    "--depths",
    type=parse_fractions,
    metavar="FRACTIONS",
    default="0.5",
    show_default=True,
    help="Where the needle goes, 0 the start to 1 the end, such as 0.1,0.9.",
)
@click.option("--repeats", type=int, default=1, show_default=True, help="Requests at each context and depth.")
@click.option(
    "--output-tokens",
    "--output-len",
    type=int,
    default=16,
    show_default=True,
    help="Tokens to generate a request.",
)
@click.option(
    "--concurrency",
    "--max-concurrency",
    type=int,
    default=1,
    show_default=True,
    help="Requests under way at a time.",
)
@click.option(
    "--task", default="needle", show_default=True, help="What is planted in the prompt and asked for."
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, exists=True),
    help="The server's tokenizer: a folder, tokenizer.json or tokenizer.model."
    "  [default: the folder the server names as its model's root]",
)
@click.option(
    "--api",
    type=click.Choice([api.value for api in Api]),
    default=Api.COMPLETIONS.value,
    show_default=True,
    help="The API to use.",
)
@click.option(
    "--prompt-as",
    type=click.Choice([form.value for form in PromptAs]),
    default=PromptAs.IDS.value,
    show_default=True,
    help="How the completions API gets its prompt; a chat always takes text.",
)
@click.option(
    "--seed",
    type=int,
    help="Decides prompts and order. A seed the server has seen finds its prompts cached."
    "  [default: a fresh one, kept in the run]",
)
@click.option(
    "--run",
    "--result-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The run folder.  [default: runs/ and the time]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --run; what it has is not sent again.")
@click.option("--retry-failed", is_flag=True, help="With --resume, send the requests that failed again.")
@click.option("--in-order", is_flag=True, help="Send contexts and depths as given instead of shuffled.")
@click.option("--ignore-eos", is_flag=True, help="Ask the server to generate past an end of sequence.")
@click.option(
    "--extra-body",
    type=parse_json_object,
    metavar="JSON",
    default="{}",
    help="Further fields of every request, as JSON.",
)
@click.option(
    "--api-key",
    envvar="OPENAI_API_KEY",
    show_envvar=True,
    help="Sent as a bearer token; never stored or printed.",
)
@click.option(
    "--connect-timeout", type=float, default=10.0, show_default=True, help="Seconds to wait for a connection."
)
@click.option(
    "--first-token-timeout", type=float, help="Seconds to wait for the first token.  [default: no limit]"
)
@click.option("--idle-timeout", type=float, help="Seconds to wait between two tokens.  [default: no limit]")
@click.option(
    "--time-limit", type=float, help="Seconds after which the whole run stops.  [default: no limit]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def command(
    run: Path | None,
    connect_timeout: float,
    first_token_timeout: float | None,
    idle_timeout: float | None,
    time_limit: float | None,
    api: str,
    prompt_as: str,
    as_json: bool,
    **given: Any,
) -> int:
    """Send exact-length prompts to an OpenAI-compatible server, check the answers and measure.

    Every prompt has exactly as many tokens as asked for, starts like no other, and hides a needle that
    must come back. Results are kept in the run folder as they come in.
    """  # fmt: skip
    if run is None and given["resume"]:
        raise InputError("--resume does not say which run to go on with", "name its folder with --run")
    folder = run or Path("runs") / datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")
    options = BenchOptions(
        run=folder,
        api=Api(api),
        prompt_as=PromptAs(prompt_as),
        limits=Limits(connect_timeout, first_token_timeout, idle_timeout),
        time_limit_s=time_limit,
        **given,
    )
    try:
        with choose_watcher(Console(stderr=True)) as watcher:
            outcome = asyncio.run(run_bench(options, watcher=watcher))
    except KeyboardInterrupt:
        if folder.exists():
            click.echo(
                f"farspan: results so far are in {folder}; go on with --run {folder} --resume", err=True
            )
        raise
    if as_json:
        click.echo(orjson.dumps(summarise(outcome), option=orjson.OPT_INDENT_2))
    else:
        print_points(stdout_console(), outcome)
        click.echo(f"Results are in {outcome.folder}; farspan report {outcome.folder} makes a page of them.")
    print_failures(outcome, when_stopped=f"go on with --run {folder} --resume")
    return outcome.exit_code
