"""The options that ask for a plan, for every verb that makes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from farspan.cli.options import WeightFormat
from farspan.cli.stray_word import refuse_stray
from farspan.models.spec import KvDtype

_Command = TypeVar("_Command", bound=Callable[..., Any])

accept_nearest_version_option = click.option(
    "--accept-nearest-version", is_flag=True, help="Plan an unknown version as the nearest."
)
ignore_field_option = click.option(
    "--ignore-field",
    "ignore_fields",
    metavar="NAME",
    multiple=True,
    help="A field of the config that cannot change memory.",
)
no_calibration_option = click.option(
    "--no-calibration", is_flag=True, help="Leave out what was calibrated on this machine."
)
offline_option = click.option("--offline", is_flag=True, help="Never ask the Hugging Face hub for a config.")
_OPTIONS = (
    click.option("--tp", type=int, help="Tensor-parallel size.  [default: all GPUs]"),
    click.option(
        "--context",
        metavar="SIZE",
        help="Longest request, prompt and answer together: 128k, 2M, 2Mi; max or auto for the longest that fits.",
    ),
    click.option("--concurrency", default=1, show_default=True, help="Requests of that length at once."),
    click.option("--output-tokens", metavar="SIZE", default="200", show_default=True, help="Tokens of the answer."),
    click.option(
        "--kv-dtype",
        default="auto",
        show_default=True,
        metavar="TYPE",
        help=f"Type of the KV cache: {', '.join(kind.value for kind in KvDtype)}; bf16, e4m3 ... in any case.",
    ),
    click.option("--weights", type=WeightFormat(),
                 help="Plan as if weights were kept so; awq, gptq, bfloat16 ... in any case."),
    click.option(
        "--engine-version",
        default="",
        help="The engine's version.  [default: the installed one for a local server, else the newest known]",
    ),
    accept_nearest_version_option,
    ignore_field_option,
    click.option("--rope-scaling", default="", metavar="KIND:FACTOR", help="Reach further than the model: yarn:4."),
    click.option("--elastic", is_flag=True,
                 help="SGLang with farspan's plug-in: a KV cache that takes memory as requests come."),
    no_calibration_option,
    offline_option,
)  # fmt: skip


def plan_options(command: _Command) -> _Command:
    """Add the options, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


engine_flags_argument = click.argument(
    "engine_flags", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE FLAGS]", callback=refuse_stray
)
