"""Tables in Markdown from what benchmarks/prefix_tree.py measured."""

from __future__ import annotations

from typing import Any

from farspan.sizes import format_tokens
from kv_tables import table

_NAMES = {
    "farspan": "farspan",
    "sglang-0.5.23-rust": "SGLang 0.5.23, Rust core",
    "sglang-0.5.23-python": "SGLang 0.5.23, Python core",
    "sglang-0.5.6.post2": "SGLang 0.5.6.post2",
}


def prefix_chunks(result: dict[str, Any]) -> str:
    """Write CPU seconds for a prompt stored chunk by chunk, and the memory of the longest over its payload."""
    lengths = sorted({row["tokens"] for tree in result["trees"] for row in tree["chunked"]})
    rows = []
    for tree in result["trees"]:
        seconds = {row["tokens"]: row["cpu_seconds"] for row in tree["chunked"]}
        longest = max(tree["chunked"], key=lambda row: row["tokens"])
        cells = [_seconds(seconds.get(length)) for length in lengths]
        rows.append([*_head(tree), *cells, f"{longest['stored_over_payload']:.2f}x"])
    return table(["tree", "page", *map(format_tokens, lengths), "memory"], rows)


def prefix_once(result: dict[str, Any]) -> str:
    """Write CPU ms for a prompt stored and found at once, and CPU µs for short ones."""
    rows = []
    for tree in result["trees"]:
        once, short = tree["at_once"], tree["short"]
        pieces = once.get("match_pieces_cpu_ms")
        match = f"{once['match_cpu_ms']:.1f}" + ("" if pieces is None else f" ({pieces:.1f} in pieces)")
        rows.append(
            [
                *_head(tree), f"{once['insert_cpu_ms']:.1f}", match, f"{short['match_and_insert_us']:.0f}",
                f"{short['match_us']:.0f}", f"{short['stored_over_payload']:.2f}x",
            ]
        )  # fmt: skip
    return table(["tree", "page", "insert", "match, indices as one array", "store", "match", "memory"], rows)


def _head(tree: dict[str, Any]) -> list[str]:
    return [_NAMES.get(tree["subject"], tree["subject"]), str(tree["page_size"])]


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3f}" if seconds < 1 else f"{seconds:.1f}"
