"""`farspan bench`: send exact-length prompts to a server and measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from farspan.cli.live import choose_watcher
from farspan.cli.measurement_options import (
    api_key_option,
    corpus_options,
    depths_option,
    fail_if_option,
    percentiles_option,
)
from farspan.cli.options import (
    is_given,
    parse_engines,
    parse_goals,
    parse_json_object,
    parse_rate,
)
from farspan.cli.output import json_option, print_json
from farspan.cli.points import (
    print_dry_run,
    print_failures,
    print_planned,
    print_points,
    print_shared,
    print_spreads,
    print_turns,
    stdout_console,
)
from farspan.errors import InputError
from farspan.escape_terminal import printable
from farspan.measurement.http.wire import Api, PromptAs
from farspan.measurement.lengths import parse_lengths
from farspan.measurement.observe.engine_observer import INTERVAL_S
from farspan.measurement.observe.evidence import HUNG_AFTER_S
from farspan.measurement.shared_length import parse_shared_length
from farspan.prompts.tasks import parse_task
from farspan.sizes import parse_token_list
from farspan.verbs.bench import bench, bench_dry_run, default_run_folder

EPILOG = """\b
Examples:
  farspan bench --url http://localhost:8000 --contexts 10k,100k,1M
  farspan bench llama-4-scout-vllm --contexts 10k,100k,1M
  farspan bench --url http://localhost:8000 --contexts 1M --depths 0.1,0.9 --run runs/a
  farspan bench --url http://localhost:8000 --contexts 1M,2M --depths 0.1,0.9 --run runs/a --resume
  farspan bench --url http://localhost:8000 --contexts 100k --concurrency 8 --api chat --json
  farspan bench --url http://localhost:8000 --contexts 100k --concurrency 1,4,16,50 --output-tokens 200
  farspan bench --url http://localhost:8000 --length-distribution lognormal:50k,0.7 --num-prompts 200 --rate 0.5
  farspan bench --url http://localhost:8000 --contexts 100k,1M --shared-prefix 90% --repeats 3
  farspan bench --url http://localhost:8000 --contexts 100k --turns 5 --turn-tokens 2k --concurrency 4 --repeats 8
  farspan bench --url http://localhost:8000 --trace conversation_trace.jsonl --trace-speed 2 --ignore-eos
  farspan bench --engines vllm@http://a:8000,sglang@http://b:30000 --contexts 1M --repeats 5 --run runs/both
  farspan bench --url http://localhost:8000 --contexts 1M --plan plan.json --fail-if 'ttft.p50 > 1.1 * plan'

\b
Exit code: 0 every request was answered and right; 1 some request failed or was wrong, or a
--fail-if condition is true or cannot be judged; 2 bad input, or no request was answered at all;
130 interrupted: farspan bench --resume --run DIR goes on."""


@click.command(epilog=EPILOG, context_settings={"max_content_width": 110})
@click.argument("server", required=False)
@click.option("--url", "--base-url", help="The server's address, such as http://localhost:8000.")
@click.option(
    "--engines",
    type=parse_engines,
    metavar="NAME@URL,...",
    help="Several servers, measured one after another with the same prompts, each into its own folder in --run.",
)
@click.option("--model", help="The model's name as the server knows it.  [default: the first it lists]")
@click.option(
    "--contexts",
    "--input-len",
    type=parse_token_list,
    metavar="SIZES",
    help="Prompt lengths in tokens as the server counts them, such as 10k,100k,1M.",
)
@click.option(
    "--length-distribution",
    "--input-len-distribution",
    "lengths",
    type=parse_lengths,
    metavar="SHAPE",
    help="Draw the prompt lengths instead: uniform:1k,100k, normal:50k,10k, lognormal:50k,0.7 or"
    " weights:1k=8,100k=2.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Send the requests of a trace in Mooncake's format, which aiperf reads, at its times.",
)
@click.option(
    "--trace-speed",
    type=float,
    default=1.0,
    show_default=True,
    help="With --trace: how much faster than it was recorded.",
)
@depths_option("0.5")
@click.option(
    "--shared-prefix",
    type=parse_shared_length,
    metavar="SIZE",
    help="Send groups of requests that share the first tokens of their prompts, 90% or 100k: the first of a group"
    " finds nothing cached, the others what they share. --repeats counts groups.",
)
@click.option(
    "--group-size",
    type=int,
    metavar="NUMBER",
    help="Requests that share a prefix.  [default: 4, or one more than --concurrency]",
)
@click.option(
    "--turns",
    type=int,
    metavar="NUMBER",
    help="Send conversations of so many turns: each goes on from the one before and the answer it got. --contexts are"
    " their first prompts, --repeats counts conversations, --concurrency those at a time.",
)
@click.option(
    "--turn-tokens",
    metavar="SIZE",
    help="With --turns: tokens that each turn adds of its own.  [default: 512]",
)
@click.option(
    "--think-time",
    type=float,
    default=0.0,
    show_default=True,
    help="With --turns: seconds between an answer and the next turn.",
)
@click.option(
    "--skip-cold", is_flag=True, help="With --turns: send no fresh prompt as long as every turn beside them."
)
@click.option("--repeats", type=int, default=1, show_default=True, help="Requests at each context and depth.")
@click.option(
    "--num-prompts",
    "requests",
    type=int,
    help="Measured requests in all, instead of --repeats: the contexts and depths in rounds, or so many draws.",
)
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
    metavar="NUMBERS",
    help="Requests under way at a time. Several, such as 1,4,16,50, are gone through one after another and make a"
    " throughput-latency curve."
    "  [default: 1; with --rate no bound]",
)
@click.option(
    "--rate",
    "--request-rate",
    type=parse_rate,
    metavar="RATE",
    help="Send so many requests a second whether or not earlier ones are over.  [default: closed loop]",
)
@click.option(
    "--burstiness",
    type=parse_rate,
    metavar="NUMBER",
    default="1",
    show_default=True,
    help="With --rate: 1 is Poisson, less comes in bursts, more is more even, constant is even.",
)
@click.option(
    "--warmup",
    "--num-warmups",
    type=int,
    default=0,
    show_default=True,
    help="Requests before the measured ones; kept, but in no statistics.",
)
@click.option(
    "--cooldown",
    type=int,
    default=0,
    show_default=True,
    help="Requests after the measured ones, so that the last of these are not alone either.",
)
@click.option(
    "--task",
    type=parse_task,
    metavar="TASK",
    default="needle",
    show_default=True,
    help="What is planted in the prompt and asked for.",
)
@corpus_options
@click.option(
    "--tokenizer",
    help="The server's tokenizer: a folder, tokenizer.json or tokenizer.model, a hub id, or a server with /tokenize."
    "  [default: by what the server names as its model's root]",
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
    help="How prompts are sent; a chat always takes text.",
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the prompts in this folder, each once, by hash.  [default: removed when the run ends]",
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
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the run in --run, alone with the options it had; what it has is not sent again.",
)
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
@api_key_option
@click.option(
    "--connect-timeout", type=float, default=10.0, show_default=True, help="Seconds to wait for a connection."
)
@click.option(
    "--first-token-timeout",
    "--first-byte-timeout",
    type=float,
    help="Seconds to wait for the first token.  [default: from --plan, or no limit]",
)
@click.option("--idle-timeout", type=float, help="Seconds to wait between two tokens.  [default: no limit]")
@click.option(
    "--time-limit", type=float, help="Seconds after which the whole run stops.  [default: no limit]"
)
@click.option(
    "--plan",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file written by farspan plan --json: limits follow from its times, and it is kept with the run.",
)
@percentiles_option("50,90,99")
@click.option(
    "--goodput",
    type=parse_goals,
    metavar="TIMES",
    default="",
    help="Count requests within ttft, tpot and e2el, in ms: ttft:2000,tpot:50.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be sent; ask no server and write nothing.")
@fail_if_option
@click.option(
    "--metrics-interval",
    type=float,
    default=INTERVAL_S,
    show_default=True,
    help="Seconds between readings of the engine's /metrics and of this machine's GPUs; 0 reads none.",
)
@click.option(
    "--hang-after",
    type=click.FloatRange(min=0, min_open=True),
    default=HUNG_AFTER_S,
    show_default=True,
    help="Stop the run when requests wait and the engine has done nothing for so many seconds.",
)
@click.option("--metrics-url", help="Where the engine's metrics are.  [default: /metrics on the server]")
@json_option
def command(
    server: str | None,
    url: str | None,
    engines: dict[str, str] | None,
    run: Path | None,
    dry_run: bool,
    fail_if: tuple[str, ...],
    metrics_interval: float,
    hang_after: float,
    metrics_url: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Send exact-length prompts to a server, check the answers and measure.

    SERVER is an address, or the name of a server that farspan serve has started: its record tells
    tokenizer, plan, flags and log.

    Every prompt has exactly as many tokens as asked for, starts like no other, and hides a needle that
    must come back. Results are kept in the run folder as they come in.
    """  # fmt: skip
    if server and url:
        raise InputError(f"both {server} and --url are given", "give one")
    url = server or url
    options = {name: value for name, value in options.items() if is_given(name)}
    if dry_run:
        plan = bench_dry_run(url, run=run, **options)
        if as_json:
            print_json(plan.to_json())
        else:
            print_dry_run(plan)
        return 0
    if run is None and not options.get("resume"):
        run = default_run_folder()
    try:
        with choose_watcher(Console(stderr=True)) as watcher:
            result = bench(
                url,
                engines=engines,
                run=run,
                fail_if=fail_if,
                metrics_interval=metrics_interval,
                metrics_url=metrics_url,
                hang_after=hang_after,
                watcher=watcher,
                **options,
            )
    except KeyboardInterrupt:
        if run is not None and run.exists():
            click.echo(f"farspan: results so far are in {run}; go on with --run {run} --resume", err=True)
        raise
    if as_json:
        print_json(result.to_json())
    for name, outcome in result.outcomes.items():
        if not as_json:
            if name:
                click.echo(f"{name}:")
            print_points(stdout_console(), outcome)
            print_shared(stdout_console(), outcome)
            print_turns(stdout_console(), outcome)
            print_planned(stdout_console(), outcome)
            print_spreads(stdout_console(), outcome, result.options.percentiles, result.options.goodput)
            click.echo(
                f"Results are in {outcome.folder}; farspan report {outcome.folder} makes a page of them."
            )
        print_failures(outcome, when_stopped=f"go on with --run {run} --resume")
    for breach in result.breaches:
        click.echo(printable(f"farspan: {breach}"), err=True)
    return result.exit_code
