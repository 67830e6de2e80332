"""`farspan doctor`: what happened to a server, why, and what to change, from its log."""

from __future__ import annotations

import os
import stat
import sys

import click

from farspan.cli.main import EXIT_BAD_INPUT, EXIT_FAILED
from farspan.cli.output import json_option, print_json
from farspan.diagnosis.live.look import WATCHED_S
from farspan.diagnosis.report_json import report_object
from farspan.diagnosis.report_text import report_lines
from farspan.engines.logs.findings import Severity
from farspan.verbs.doctor import doctor

_EPILOG = """\b
Examples:
  farspan doctor vllm.log
  docker logs scout 2>&1 | farspan doctor -
  farspan doctor llama-4-scout-vllm
  farspan doctor container:scout
  farspan doctor 'INFO 12-18 14:37:28 [loggers.py:236] Engine 000: Avg prompt throughput: 637856.3 tokens/s, ...'
  farspan doctor pod:llm/scout-0 --previous --json
  farspan doctor --url http://localhost:8000
  farspan doctor pid:4711 --for 30
  farspan doctor vllm.log --bundle report.md
  farspan doctor sglang.log --model llama-4-scout --gpus 8xH200 --engine-version 0.5.16

Exit code: 0 no finding is an error, 1 one is, 2 bad input (no such log, or nothing of vLLM or SGLang in it).
"""


@click.command("doctor", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", metavar="[FILE|NAME|-|container:NAME|pod:[NAMESPACE/]NAME|pid:N]", default="")
@click.option("--url", default="", help="A running server to look at: what it does, and what it waits for.")
@click.option(
    "--live", is_flag=True, help="Look at the running container or pod, too, and not only at its log."
)
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(1, 600),
    default=WATCHED_S,
    show_default=True,
    help="How long to watch a running server, in seconds.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="The server's port inside its container or pod.")
@click.option(
    "--api-key",
    default="",
    envvar="OPENAI_API_KEY",
    help="The running server's key; better from OPENAI_API_KEY.",
)
@click.option(
    "--model", default="", help="The model, where the log names only a folder: a catalog name or config.json."
)
@click.option("--gpus", default="", help="The GPUs, where the log does not name them: 8xH200.")
@click.option(
    "--engine-version", default="", help="The engine's version, where the log does not print it (SGLang)."
)
@click.option("--container", default="", help="Of a pod with several containers, the one to read.")
@click.option("--previous", is_flag=True, help="Of a pod, the log from before its last restart.")
@click.option(
    "--bundle",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Also write a report to paste: versions, findings and the log trimmed, without secrets, hosts, "
    "paths and prompts.",
)
@json_option
def command(
    source: str,
    url: str,
    live: bool,
    seconds: float,
    port: int | None,
    api_key: str,
    model: str,
    gpus: str,
    engine_version: str,
    container: str,
    previous: bool,
    bundle: str | None,
    as_json: bool,
) -> None:
    """Read the log of a vLLM or SGLang server, or look at a running one, and say what happened, why, and what to
    change.

    Any version, several processes at once, colours, docker's and kubectl's prefixes, a cut beginning, gigabytes
    from a pipe.
    """
    report = doctor(
        source or ("" if url else _redirected()),
        url=url,
        live=live,
        seconds=seconds,
        port=port or 0,
        api_key=api_key,
        model=model,
        gpus=gpus,
        engine_version=engine_version,
        container=container,
        previous=previous,
        bundle=bundle,
    )
    if as_json:
        print_json(report_object(report))
    else:
        for line in report_lines(report):
            click.echo(line)
    if not report.recognised:
        sys.exit(EXIT_BAD_INPUT)
    if report.worst is Severity.ERROR:
        sys.exit(EXIT_FAILED)


def _redirected() -> str:
    """`-` where a file is redirected to standard input; a pipe may be anybody's, and is asked for by `-`."""
    try:
        return "-" if stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode) else ""
    except (OSError, ValueError):
        return ""
