"""`farspan gpus`: the GPUs farspan knows by name."""

from __future__ import annotations

import click

from farspan.cli.output import json_option, print_json, print_lines, terminal_width
from farspan.planner.text_layout import table
from farspan.sizes import GIB
from farspan.verbs.list_known import list_gpus


@click.command("gpus")
@json_option
def command(as_json: bool) -> None:
    """List the GPUs farspan knows by name.

    Memory is what torch reports on such a card, less than its sticker says; bandwidth and rates are the vendors' data
    sheets, dense.
    """
    found = list_gpus()
    if as_json:
        print_json(found.to_json())
        return
    rows = [["name", "memory GiB", "origin", "TB/s", "bf16 TFLOP/s", "fp8 TFLOP/s", "link"]]
    for gpu in found.gpus:
        rows.append(
            [
                gpu.name,
                f"{gpu.memory_bytes / GIB:.2f}",
                gpu.memory_origin.value,
                f"{gpu.bandwidth / 1e12:.3g}",
                f"{gpu.bf16_flops / 1e12:,.0f}",
                f"{gpu.fp8_flops / 1e12:,.0f}" if gpu.fp8_flops else "-",
                gpu.link,
            ]
        )
    print_lines(table(rows, {1, 3, 4, 5}, width=terminal_width()))
