"""Runs the `farspan` commands shown in these pages and writes their output under them.

    python docs/refresh.py            rewrite the pages
    python docs/refresh.py --check    say which pages are stale, exit code 1 if any is

A block to refresh is fenced as ```console and starts with `$ farspan ...`; a trailing `| head -N` keeps the
first N lines. Several commands may share a block.

What shows as it is, such as a table, stands between `<!-- $ farspan ... -->` and `<!-- end -->`. The charts in
docs/figures are drawn from the run in docs/runs/demo.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
PAGES = (DOCS.parent / "README.md", *sorted(DOCS.glob("*.md")))
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEAD = re.compile(r"\s*\|\s*head -(\d+)$")
_COMMENT = re.compile(r"(?<=^<!-- \$ )(.*?)( -->\n).*?(?=^<!-- end -->$)", re.MULTILINE | re.DOTALL)
_CHARTS = ("docs/runs/demo", DOCS / "figures", ("kv-a.svg", "ttft.svg"))
_DID_NOT_RUN = 2  # farspan's exit code for bad input; 3 means "does not fit" and is an answer


def run(line: str) -> str:
    """The output of one `farspan ...` line, as the page shows it."""
    head = _HEAD.search(line)
    words = shlex.split(_HEAD.sub("", line).replace("\\\n", " "))
    if words[0] != "farspan":
        raise SystemExit(f"{line!r} does not start with farspan")
    source = str(DOCS.parent / "src")
    environment = {**os.environ, "PYTHONPATH": source, "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        cwd=DOCS.parent,
    )
    if done.returncode == _DID_NOT_RUN and not done.stderr.startswith("farspan: "):
        raise SystemExit(f"{line!r} failed: {done.stderr}")
    lines = (done.stdout or done.stderr).splitlines()
    kept = lines[: int(head.group(1))] if head else lines
    return "".join(f"{text.rstrip()}\n" for text in kept)


def _commands(block: str) -> list[str]:
    """The command lines of a block, continuation lines joined by their backslash."""
    found: list[str] = []
    for line in block.splitlines():
        if found and found[-1].endswith("\\"):
            found[-1] += f"\n{line}"
        elif line.startswith("$ "):
            found.append(line[2:])
    return found


def refreshed(text: str) -> str:
    """A page with the output of its commands as they are today."""

    def fill(match: re.Match[str]) -> str:
        commands = _commands(match.group(1))
        if not commands:
            return match.group(0)
        body = "\n".join(f"$ {command}\n{run(command)}" for command in commands)
        return f"```console\n{body}```"

    filled = _BLOCK.sub(fill, text)
    return _COMMENT.sub(lambda match: f"{match[1]}{match[2]}{run(match[1])}", filled)


def redraw(*, check: bool) -> list[Path]:
    """Draw the charts of the pages again; return those that were not as they are today."""
    source, folder, names = _CHARTS
    stale = []
    with tempfile.TemporaryDirectory() as fresh:
        run(f"farspan report {source} --charts {fresh}")
        for name in names:
            drawn, kept = (Path(fresh) / name).read_text("utf-8"), folder / name
            if kept.exists() and kept.read_text("utf-8") == drawn:
                continue
            stale.append(kept)
            if not check:
                folder.mkdir(exist_ok=True)
                kept.write_text(drawn, "utf-8")
    return stale


def main() -> int:
    """Refresh or check the pages; the exit code says whether a checked page is stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("pages", nargs="*", type=Path, help="all pages when none is named")
    options = parser.parse_args()
    stale = []
    for page in options.pages or PAGES:
        before = page.read_text("utf-8")
        after = refreshed(before)
        if after == before:
            continue
        stale.append(page)
        if not options.check:
            page.write_text(after, "utf-8")
        print(f"{'stale' if options.check else 'rewrote'} {page}")
    for chart in [] if options.pages else redraw(check=options.check):
        stale.append(chart)
        print(f"{'stale' if options.check else 'redrew'} {chart}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
