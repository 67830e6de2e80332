"""Tables in Markdown from what benchmarks/kv_structures.py measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from farspan.sizes import format_bytes, format_tokens


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def tables(result: dict[str, Any]) -> str:
    """Return all tables of a run, each under a line that says what it is."""
    shape = result["shape"]
    parts = [
        f"`{result['command']}`",
        f"{result['device']}, torch {result['torch']}: {shape['layers']} layers of {shape['heads']} KV head of "
        f"{shape['dim']}, {shape['dtype']} ({format_bytes(shape['token_bytes'])} a token), a cap of "
        f"{format_tokens(shape['cap'])} tokens, growing by {format_tokens(result['step'])} tokens.",
        growth(result),
        waste(result),
        attention(result),
        driver(result),
    ]
    if "lookup" in result:
        parts.append(lookup(result["lookup"]))
    parts += [f"{name} failed: {reason}" for name, reason in result.get("failed", {}).items()]
    return "\n\n".join(parts)


def growth(result: dict[str, Any]) -> str:
    """Return start-up, pauses and totals."""
    lengths = _lengths(result)
    head = ["structure", "at start", "at start, ms", "pause p50, ms", "p99", "longest"]
    head += [f"all growth to {format_tokens(length)}, ms" for length in lengths]
    rows = []
    for row in result["growth"]:
        totals = {each["tokens"]: f"{each['total_ms']:.1f}" for each in row["at"]}
        failed = f"out of memory at {format_tokens(row['failed_at'])}" if row["failed_at"] else ""
        rows.append(
            [
                row["structure"], format_bytes(row["start_bytes"]), f"{row['start_ms']:.1f}",
                f"{row['p50_ms']:.3f}", f"{row['p99_ms']:.3f}", f"{row['max_ms']:.2f}",
                *(totals.get(length, failed) for length in lengths),
            ]
        )  # fmt: skip
    return table(head, rows)


def waste(result: dict[str, Any]) -> str:
    """Return bytes held, the most of them, what is not used, and tables."""
    lengths = _lengths(result)
    head = ["structure", *(f"held at {format_tokens(length)} (unused)" for length in lengths)]
    head += ["most while growing", "tables on the host", "on the device"]
    rows = []
    for row in result["growth"]:
        held = {each["tokens"]: f"{format_bytes(each['bytes'])} ({each['waste']:.0%})" for each in row["at"]}
        rows.append(
            [
                row["structure"], *(held.get(length, "") for length in lengths), format_bytes(row["peak_bytes"]),
                format_bytes(row["host_table_bytes"]), format_bytes(row["device_table_bytes"]),
            ]
        )  # fmt: skip
    return table(head, rows)


def attention(result: dict[str, Any]) -> str:
    """Return times of attention, each also as the speed of the fixed pool under the same kernel and under torch's."""
    rows = result["attention"]
    parts = []
    for what, label in (
        ("decode_ms", "decode, one position, ms a layer"),
        ("prefill_ms", f"{result['queries']} positions, ms a layer"),
    ):
        lengths = sorted({row["tokens"] for row in rows if what in row})
        base = {row["tokens"]: row[what] for row in rows if row["structure"] == "fixed pool" and what in row}
        cells: dict[tuple[str, str], dict[int, str]] = {}
        for row in rows:
            if what in row:
                speed = base[row["tokens"]] / row[what]
                cells.setdefault((row["structure"], row["kernel"]), {})[row["tokens"]] = (
                    f"{row[what]:.3f} ({speed:.3f}x)"
                )
        head = [label, "kernel", *(f"{format_tokens(length)}" for length in lengths)]
        parts.append(
            table(
                head, [[*key, *(found.get(length, "") for length in lengths)] for key, found in cells.items()]
            )
        )
    return "\n\n".join(parts)


def driver(result: dict[str, Any]) -> str:
    """Return what a segment costs at the driver."""
    return table(
        ["segment", "create, map and set access, µs", "ms a GiB"],
        [
            [format_bytes(row["segment_bytes"]), f"{row['each_us']:.1f}", f"{row['gib_ms']:.2f}"]
            for row in result["driver"]
        ],
    )


def lookup(rows: list[dict[str, Any]]) -> str:
    """Return prefix lookup."""
    head = ["structure", "tokens", "insert by chunks, s", "hash, ms", "lookup, ms", "half, ms"]
    head += ["first chunk, ms", "memory"]
    return table(
        head,
        [
            [
                row["structure"], format_tokens(row["tokens"]), f"{row['insert_s']:.3f}", f"{row['hash_ms']:.1f}",
                f"{row['lookup_ms']:.1f}", f"{row['half_hit_ms']:.1f}", f"{row['first_chunk_ms']:.3f}",
                f"{row['stored_over_payload']:.2f}x",
            ]
            for row in rows
        ],
    )  # fmt: skip


def _lengths(result: dict[str, Any]) -> list[int]:
    return sorted({each["tokens"] for row in result["growth"] for each in row["at"]})


def eviction(result: dict[str, Any]) -> str:
    """Write what kv_eviction.py measured, by what was evicted at a time."""
    return table(
        ["evicted at a time", "host tier", "prompt", "evicted", "all steps, s", "p50, ms", "longest, ms", "pieces"],
        [
            [
                row["eviction"], "yes" if row["host_tier"] else "no", str(row["prompt"]), f"{row['evicted_tokens']:,}",
                f"{row['total_ms'] / 1000:.2f}", f"{row['step_p50_ms']:.2f}", f"{row['step_max_ms']:.0f}",
                str(row["runs"]),
            ]
            for row in result["rows"]
        ],
    )  # fmt: skip


def restored(result: dict[str, Any]) -> str:
    """Write what kv_eviction.py measured of prompts that were asked about again."""
    return table(
        ["prompt", "found", "from the host", "pushed out meanwhile", "s", "pieces"],
        [
            [
                str(row["prompt"]), f"{row['cached_tokens']:,}", f"{row['restored_tokens']:,}",
                f"{row['evicted_tokens']:,}", f"{row['open_ms'] / 1000:.2f}", str(row["runs"]),
            ]
            for row in result["again"]
        ],
    )  # fmt: skip
