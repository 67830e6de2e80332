"""Makes the tables and charts of the pages from the measurements in docs/data.

    python docs/figures.py            rewrite the pages and charts
    python docs/figures.py --check    say which are stale, exit code 1 if any is

A table stands between `<!-- NAME DATA.json -->` and `<!-- end -->`; NAME is a function below, in
benchmarks/kv_tables.py or in benchmarks/prefix_tables.py that takes the parsed data.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "src")]

import kv_tables  # noqa: E402
import prefix_tables  # noqa: E402
from farspan.sizes import GIB, format_bytes, format_tokens  # noqa: E402

_BLOCK = re.compile(r"<!-- (\w+) (\S+\.json) -->\n.*?<!-- end -->", re.DOTALL)


def recall(data: dict[str, Any]) -> str:
    """The rows of benchmarks/recall.py."""
    return kv_tables.table(
        ["tokens", "needle at", "right", "cached", "first token, s", "between tokens, ms", "KV mapped", "on the host"],
        [
            [
                format_tokens(row["tokens"]), f"{row['depth']:g}", "yes" if row["right"] else "**no**",
                f"{row['cached_tokens']:,}", f"{row['ttft_s']:.2f}", f"{1000 * row['itl_s']:.1f}",
                format_bytes(row["mapped_bytes"]), format_bytes(row["host_bytes"]),
            ]
            for row in data["rows"]
        ],
    )  # fmt: skip


def scout_rank(data: dict[str, Any]) -> str:
    """The rows of `benchmarks/scout_rank.py builtin`."""
    rows = [("bf16", "yes", row) for row in data["rows"]]
    rows += [("FP8", "yes", row) for row in data["rows_fp8"]]
    rows += [
        ("bf16", "no", data["without graphs"]),
        ("bf16", "one sequence after another", data["in pieces"]),
    ]
    return kv_tables.table(
        ["tokens", "KV", "graphs", "first token, s", "tokens/s", "between tokens, ms"],
        [
            [
                f"{row['tokens']:,}", kind, graphs, f"{row['ttft_s']:.2f}", f"{row['tokens'] / row['ttft_s']:,.0f}",
                f"{row['itl_ms']:.1f}",
            ]
            for kind, graphs, row in rows
        ],
    )  # fmt: skip


def scout_parts(data: dict[str, Any]) -> str:
    """What a step of the rank is made of, on the GPU."""
    parts = data["parts_ms"].items()
    return kv_tables.table(
        ["part", "ms", "TFLOP/s"],
        [
            [name, f"{part['ms']:.2f}", f"{part['tera/s']:.0f}" if "tera/s" in part else ""]
            for name, part in parts
        ],
    )


def memory(data: dict[str, Any]) -> str:
    """Memory over time: a dozen points of all that were kept, the last one after everything."""
    points = data["memory"]
    step = max(1, len(points) // 12)
    chosen = [*points[:-1:step], points[-1]]
    return kv_tables.table(
        ["seconds", "mapped", "used", "on the host"],
        [[f"{point[0]:.0f}", *(format_bytes(size) for size in point[1:])] for point in chosen],
    )


def memory_chart(data: dict[str, Any]) -> str:
    """An SVG of bytes over time: mapped, used, host, and the pool that an ordinary engine would have taken."""
    width, height, left, top = 760, 300, 60, 20
    points = data["memory"]
    last = points[-1][0]
    most = max(data["capacity_bytes"], *(max(point[1:]) for point in points)) / GIB
    right, bottom = width - 15, height - 40

    def place(seconds: float, size: float) -> str:
        return (
            f"{left + seconds / last * (right - left):.1f},{bottom - size / GIB / most * (bottom - top):.1f}"
        )

    lines = []
    series = ((1, "#1f5fbf", "mapped"), (2, "#7fb2e5", "used"), (3, "#c77700", "host tier"))
    for column, colour, _ in series:
        path = " ".join(place(point[0], point[column]) for point in points)
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
    start, end = place(0, data["capacity_bytes"]), place(last, data["capacity_bytes"])
    lines.append(f'<path d="M{start} L{end}" stroke="#888" stroke-dasharray="6 4" fill="none"/>')
    step = next(each for each in (0.5, 1, 2, 5, 10, 20, 50) if most / each <= 8)
    number = 0.0
    while number <= most:
        at = place(0, number * GIB).split(",")[1]
        lines.append(f'<text x="{left - 8}" y="{at}" text-anchor="end" dy="4">{number:g}</text>')
        lines.append(f'<path d="M{left},{at} H{right}" stroke="#ddd" fill="none"/>')
        number += step
    for seconds in range(0, int(last) + 1, 50):
        x = place(seconds, 0).split(",")[0]
        lines.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{seconds}</text>')
    lines.append(f'<text x="{(left + right) / 2}" y="{height - 5}" text-anchor="middle">seconds</text>')
    lines.append(f'<text x="12" y="{top}" dy="-6">GiB</text>')
    legend = [*((colour, name) for _, colour, name in series), ("#888", "a fixed pool")]
    for index, (colour, name) in enumerate(legend):
        x = left + 60 + 120 * index
        lines.append(f'<path d="M{x},10 h24" stroke="{colour}" stroke-width="2" fill="none"/>')
        lines.append(f'<text x="{x + 30}" y="14">{name}</text>')
    body = "\n".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


CHARTS: dict[str, tuple[Callable[[dict[str, Any]], str], str]] = {
    "elastic-cache-bf16.svg": (memory_chart, "elastic-cache-bf16-10m-h200.json"),
    "elastic-cache-fp8.svg": (memory_chart, "elastic-cache-fp8-10m-h200.json"),
}


def filled(text: str) -> str:
    """A page with the tables as its data has them."""

    def fill(match: re.Match[str]) -> str:
        name, data = match.groups()
        make = globals().get(name) or getattr(kv_tables, name, None) or getattr(prefix_tables, name)
        made = make(json.loads((DOCS / "data" / data).read_text("utf-8")))
        return f"<!-- {name} {data} -->\n{made}\n<!-- end -->"

    return _BLOCK.sub(fill, text)


def figures() -> dict[Path, str]:
    """Every page and chart as it should be."""
    made = {page: filled(page.read_text("utf-8")) for page in sorted(DOCS.glob("*.md"))}
    for name, (draw, data) in CHARTS.items():
        made[DOCS / "data" / name] = draw(json.loads((DOCS / "data" / data).read_text("utf-8")))
    return made


def main() -> int:
    """Rewrite or check; the exit code says whether something checked is stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    stale = [path for path, text in figures().items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if not check:
            path.write_text(figures()[path], "utf-8")
        print(f"{'stale' if check else 'rewrote'} {path.relative_to(ROOT)}")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
