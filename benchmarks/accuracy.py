"""How far the planner is from what real vLLM servers printed at start: docs/accuracy.md, case by case.

python benchmarks/accuracy.py            the table
python benchmarks/accuracy.py --write    the same, into docs/accuracy.md
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from farspan.engines.registry import get_engine
from farspan.planner.engine_flags import parse_engine_flags
from farspan.planner.request import EnginePlan
from farspan.sizes import GIB
from printed_servers import is_right, request_for

SERVERS = Path(__file__).with_name("vllm_servers.json")
PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
BEGIN, END = "<!-- vllm servers -->\n", "<!-- end -->\n"
LEFT_OUT = (
    "Left out of these figures, because the planner is wrong there or too little is known of the server:"
)
_SHOWN = ("--pipeline-parallel-size", "--quantization", "--dtype", "--gpu-memory-utilization")


class Compared(NamedTuple):
    """One server beside its plan.

    Args:
        server: Its facts.
        plan: What farspan planned.
        off_gib: Available KV memory planned, less what was printed, GiB.
        right: Whether that is within half a percent or 0.3 GiB.
    """

    server: dict[str, Any]
    plan: EnginePlan
    off_gib: float
    right: bool


def compare_servers() -> list[Compared]:
    """Plan every server of the table."""
    facts = json.loads(SERVERS.read_text("utf-8"))
    return [_compare(server, facts["configs"]) for server in facts["servers"]]


def compare_left_out() -> list[Compared]:
    """Plan the servers on which the planner is wrong, or of which too little is known to judge it."""
    facts = json.loads(SERVERS.read_text("utf-8"))
    return [_compare(server, facts["configs"]) for server in facts["left_out"]]


def _compare(server: dict[str, Any], configs: dict[str, Any]) -> Compared:
    plan = get_engine("vllm").plan(request_for(server, configs, as_given=False))
    off = plan.available_kv_bytes / GIB - server["available_gib"]
    return Compared(server, plan, off, is_right(off, server["available_gib"]))


def table(compared: Iterable[Compared]) -> list[str]:
    """The table in Markdown."""
    lines = [
        "| model | GPUs | TP | vLLM | context | flags | weights | KV printed | KV planned | off | tokens |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for server, plan, off, _ in compared:
        flags = parse_engine_flags(server["flags"])
        shown = " ".join(f"{name.lstrip('-')} {flags[name]}" for name in _SHOWN if name in flags)
        cells = (
            server["model"],
            server["gpus"],
            server["tp"],
            server["version"],
            f"{server['context']:,}",
            shown,
            _percent(plan.weights_bytes / GIB, server["weights_gib"]),
            f"{server['available_gib']:.2f}",
            f"{plan.available_kv_bytes / GIB:.2f}",
            f"{off:+.2f}",
            _percent(plan.printed.get("GPU KV cache size"), server["tokens"]),
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return lines


def _percent(planned: float | str | None, printed: float | None) -> str:
    if not isinstance(planned, int | float) or not printed:
        return ""
    return f"{100 * (planned / printed - 1):+.2f} %"


def summary(compared: list[Compared]) -> str:
    """The figures of the whole table in one paragraph."""
    relative = [100 * abs(one.off_gib) / one.server["available_gib"] for one in compared]
    right = sum(one.right for one in compared)
    return (
        f"{len(compared)} servers: {right} within 0.5 % or 0.3 GiB of the KV memory that was printed; median error "
        f"{statistics.median(relative):.2f} %, largest shortfall {min(one.off_gib for one in compared):+.2f} GiB, "
        f"largest promise above {max(one.off_gib for one in compared):+.2f} GiB."
    )


def left_out_table(compared: Iterable[Compared]) -> list[str]:
    """The servers that the summary's figures leave out, in Markdown."""
    lines = [
        "| model | GPUs | vLLM | KV printed | KV planned | off | tokens | what is known of it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for server, plan, off, _ in compared:
        cells = (
            server["model"],
            server["gpus"],
            server["version"],
            f"{server['available_gib']:.2f}",
            f"{plan.available_kv_bytes / GIB:.2f}",
            f"{off:+.2f}",
            _percent(plan.printed.get("GPU KV cache size"), server["tokens"]),
            server["left_out"],
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def overall(compared: list[Compared], left_out: list[Compared]) -> str:
    """How many of all servers are right, those left out counted."""
    right = sum(one.right for one in (*compared, *left_out))
    return (
        f"With these {len(left_out)} counted, {right} of {len(compared) + len(left_out)} servers are within 0.5 % or "
        "0.3 GiB."
    )


def main() -> None:
    """Print the table, or write it into the page."""
    compared, left_out = compare_servers(), compare_left_out()
    lines = [summary(compared), "", *table(compared), "", LEFT_OUT, overall(compared, left_out), ""]
    text = "\n".join([*lines, *left_out_table(left_out)]) + "\n"
    if "--write" not in sys.argv[1:]:
        sys.stdout.write(text)
        return
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + text + END + after, "utf-8")


if __name__ == "__main__":
    main()
