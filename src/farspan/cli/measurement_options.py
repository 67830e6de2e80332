"""Options that several of the verbs about measurements have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from farspan.cli.options import parse_fractions, parse_percentiles

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

fail_if_option: Decorator = click.option(
    "--fail-if",
    multiple=True,
    metavar="CONDITION",
    help="Exit with 1 when this holds at any point, such as 'ttft.p50 > 1.1 * plan'; may be given several times,"
    " see docs/compare.md.",
)


api_key_option: Decorator = click.option(
    "--api-key",
    envvar="OPENAI_API_KEY",
    show_envvar=True,
    help="Sent as a bearer token to that server alone; never stored or printed.",
)


def corpus_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--corpus` and `--corpus-field`."""
    field = click.option(
        "--corpus-field",
        metavar="NAME",
        help="Of JSON records, the field that holds the text; a.b for one inside another.  [default: text]",
    )
    corpus = click.option(
        "--corpus",
        metavar="PATH",
        help="Your own text: a file, JSON lines, or a folder of such; built-in text when left out.",
    )
    return corpus(field(command))


def depths_option(default: str) -> Decorator:
    """Return `--depths`."""
    return click.option(
        "--depths",
        type=parse_fractions,
        metavar="FRACTIONS",
        default=default,
        show_default=True,
        help="Where the needle goes, 0 the start to 1 the end, such as 0.1,0.9.",
    )


def percentiles_option(default: str) -> Decorator:
    """Return `--percentiles`, under vLLM's name too."""
    return click.option(
        "--percentiles",
        "--metric-percentiles",
        type=parse_percentiles,
        metavar="NUMBERS",
        default=default,
        show_default=True,
        help="Percentiles of every time.",
    )
