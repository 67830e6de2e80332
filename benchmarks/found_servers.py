"""The planner beside servers that were found after it was fitted: docs/accuracy.md, "Servers found afterwards".

python benchmarks/found_servers.py            the table
python benchmarks/found_servers.py --write    the same, into docs/accuracy.md
python benchmarks/found_servers.py --json     each server's verdict, as `before` is written in found_servers.json

Nothing is fitted to these servers. `before` is what the planner said of each when it was found.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from farspan.engines.registry import get_engine
from farspan.errors import InputError
from farspan.sizes import GIB
from printed_servers import RELATIVE, is_right, request_for

SERVERS = Path(__file__).with_name("found_servers.json")
PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
BEGIN, END = "<!-- found servers -->\n", "<!-- end of found servers -->\n"
KINDS = ("right", "too little", "too much", "said impossible", "said possible", "refused")


class Verdict(NamedTuple):
    """What the planner says of one server.

    Args:
        kind: One of KINDS.
        off_gib: KV memory planned, less what was printed, GiB; None where nothing can be compared.
        tokens: Tokens planned over those printed; None likewise.
    """

    kind: str
    off_gib: float | None = None
    tokens: float | None = None

    def __str__(self) -> str:
        off = "" if self.off_gib is None else f" {self.off_gib:+.2f}"
        return self.kind + off + ("" if self.tokens is None else f", tokens {100 * (self.tokens - 1):+.1f} %")


def judge(server: Mapping[str, Any], configs: Mapping[str, Any]) -> Verdict:
    """Plan one server as its flags are given."""
    request = request_for(server, configs, as_given=True)
    try:
        plan = get_engine(server["engine"]).plan(request)
    except InputError:
        return Verdict("refused")
    printed, told = server["available_gib"], server["tokens"]
    if not server["ran"]:
        off = plan.available_kv_bytes / GIB - printed if printed else None
        return Verdict("said possible" if plan.starts else "right", off)
    if not plan.starts:
        return Verdict("said impossible")
    counted = plan.printed.get("GPU KV cache size") or plan.pools.get("full")
    share = counted / told if told and isinstance(counted, int | float) else None
    off = plan.available_kv_bytes / GIB - printed if printed else None
    as_many = share is not None and abs(share - 1) <= RELATIVE
    right = as_many if off is None else is_right(off, printed)
    above = (off or 0.0) > 0 or (off is None and (share or 0.0) > 1)
    return Verdict("right" if right else "too much" if above else "too little", off, share)


def judge_all() -> list[tuple[dict[str, Any], Verdict]]:
    """Every server with what the planner says of it today."""
    facts = json.loads(SERVERS.read_text("utf-8"))
    return [(server, judge(server, facts["configs"])) for server in facts["servers"]]


def counts(judged: list[tuple[dict[str, Any], Verdict]]) -> list[str]:
    """How many servers are of each kind, before and now, in Markdown."""
    before = Counter(server["before"][0] for server, _ in judged)
    now = Counter(verdict.kind for _, verdict in judged)
    lines = [f"| of {len(judged)} servers | when found | now |", "|---|---|---|"]
    return lines + [f"| {kind} | {before[kind]} | {now[kind]} |" for kind in KINDS]


def table(judged: Iterable[tuple[dict[str, Any], Verdict]]) -> list[str]:
    """The table in Markdown."""
    lines = [
        "| model | GPUs | engine | KV printed | tokens printed | when found | now | what is known of it | found in |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for server, verdict in judged:
        cells = (
            server["model"],
            server["gpus"],
            f"{server['engine']} {server['version']}",
            f"{server['available_gib']:.2f}" if server["available_gib"] else "",
            f"{server['tokens']:,}" if server["tokens"] else "",
            str(Verdict(*server["before"])),
            str(verdict),
            server["note"],
            server["source"],
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print the table, or write it into the page."""
    judged = judge_all()
    if "--json" in sys.argv[1:]:
        sys.stdout.write(json.dumps([list(verdict) for _, verdict in judged]) + "\n")
        return
    text = "\n".join([*counts(judged), "", *table(judged)]) + "\n"
    if "--write" not in sys.argv[1:]:
        sys.stdout.write(text)
        return
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2], "utf-8")


if __name__ == "__main__":
    main()
