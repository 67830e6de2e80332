"""`farspan kv`: the memory that servers share on a device, and who may hold how much of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from farspan.cli.output import json_option, print_json
from farspan.kv.memory.budget.control import BudgetStatus
from farspan.planner.text_layout import table
from farspan.sizes import format_bytes
from farspan.verbs.kv_budget import KvStatus, kv_limit, kv_status, kv_trim

_EPILOG = """\b
Examples:
  farspan kv status
  farspan kv limit 100GiB
  farspan kv limit 30GiB --server llama-a
  farspan kv limit none --server 4711
  farspan kv trim

\b
Exit code: 0 done; 1 a budget's file is damaged, or a server did not answer in time; 2 bad input."""


@click.group("kv", epilog=_EPILOG)
def command() -> None:
    """Show and move the memory that servers on one GPU share.

    Servers of one budget (FARSPAN_BUDGET=NAME with SGLang's plug-in, --kv-budget NAME with the built-in server) hold
    together no more than its limit; memory moves from those that have it idle to those that lack it.
    """


def _where_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--api-key-env", default="", help="Environment variable with the API key of --url."),
        click.option("--url", default=None, help="Ask the built-in server there about its own budget."),
        click.option("--device", default=None, help="One device, or how its name begins: GPU-3fa9."),
        click.option("--budget", default=None, help="One budget by its name."),
    ):
        function = option(function)
    return function


_server_option = click.option(
    "--server", default=None, metavar="NAME|PID", help="One server, by name or process."
)


@command.command(
    "status", epilog="\b\nExamples:\n  farspan kv status\n  farspan kv status --budget shared --json"
)
@_where_options
@json_option
def status(budget: str | None, device: str | None, url: str | None, api_key_env: str, as_json: bool) -> int:
    """Show each budget and device, and what each of its servers holds, needs and has idle."""
    found = kv_status(budget=budget, device=device, url=url, api_key_env=api_key_env)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
    return 1 if found.damaged else 0


@command.command(
    "limit",
    epilog="\b\nExamples:\n  farspan kv limit 100GiB\n  farspan kv limit 30GiB --server llama-a\n"
    "  farspan kv limit none --budget shared",
)
@click.argument("size")
@_server_option
@_where_options
@json_option
def limit(
    size: str,
    server: str | None,
    budget: str | None,
    device: str | None,
    url: str | None,
    api_key_env: str,
    as_json: bool,
) -> int:
    """Let all servers of a budget together, or one of them, hold at most SIZE (64GiB, 512MiB; none for no limit).

    They follow it down at once, idle memory first, then cached prefixes; what requests use goes when these end.
    """
    found = kv_limit(size, server=server, budget=budget, device=device, url=url, api_key_env=api_key_env)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
    return 0


@command.command("trim", epilog="\b\nExamples:\n  farspan kv trim\n  farspan kv trim --server llama-a --json")
@_server_option
@_where_options
@json_option
def trim(
    server: str | None,
    budget: str | None,
    device: str | None,
    url: str | None,
    api_key_env: str,
    as_json: bool,
) -> int:
    """Have servers give idle memory back to the device now. Cached prefixes stay."""
    done = kv_trim(server=server, budget=budget, device=device, url=url, api_key_env=api_key_env)
    if as_json:
        print_json(done.to_json())
    else:
        click.echo(f"{format_bytes(done.given_back)} given back")
        for pid in done.late:
            click.echo(f"process {pid} has not answered yet: it gives back after its step")
        _print(done.status)
    return 1 if done.late else 0


def _print(status: KvStatus) -> None:
    if not status.budgets and not status.damaged:
        click.echo("No server shares a budget here.")
    for budget in status.budgets:
        most = (
            "no limit but the device's memory"
            if budget.limit is None
            else f"limit {format_bytes(budget.limit)}"
        )
        click.echo(f"{budget.budget} on {budget.device}: {format_bytes(budget.held)} held, {most}")
        for line in table(_rows(budget)) if budget.servers else ["  no server"]:
            click.echo(f"  {line}" if budget.servers else line)
    for line in status.damaged:
        click.echo(line, err=True)


def _rows(budget: BudgetStatus) -> Sequence[list[str]]:
    rows = [["server", "pid", "held", "idle", "wanted", "floor", "limit"]]
    rows += [
        [
            server.name,
            str(server.pid),
            format_bytes(server.held),
            format_bytes(server.idle),
            format_bytes(server.wanted),
            format_bytes(server.floor),
            "-" if server.limit is None else format_bytes(server.limit),
        ]
        for server in budget.servers
    ]
    return rows
