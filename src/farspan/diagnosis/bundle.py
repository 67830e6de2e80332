"""A report to paste: what is known of a failure, with the log trimmed and made fit for the public."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from farspan import __version__
from farspan.diagnosis.diagnose import Report
from farspan.diagnosis.redact import redact
from farspan.diagnosis.report_text import answer
from farspan.diagnosis.search_words import search_words
from farspan.engines.logs.log_line import without_colours

_HEAD = 60
_TAIL = 120
_AROUND = 60
_MOST = 500
_LINE = 400
_PENDING = 1 << 16
_ERRORS = (
    b"Traceback (most recent call last)",
    b"ERROR",
    b"Error: ",
    b"CRITICAL",
    b"Fatal",
    b"fatal",
    b"Aborted",
    b"Killed",
)


class LogExcerpt:
    """Keeps the telling parts of a log that streams by: its beginning, its errors and its end. Bounded memory."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, bytes]] = []
        self._tail: deque[tuple[int, bytes]] = deque(maxlen=_TAIL)
        self._following = 0
        self._number = 0
        self._pending = b""

    def through(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Hand a log's pieces on, keeping what tells."""
        for piece in pieces:
            self._feed(piece)
            yield piece
        if self._pending:
            self._see(self._pending)
            self._pending = b""

    def _feed(self, piece: bytes) -> None:
        lines = (self._pending + piece).split(b"\n")
        self._pending = lines.pop()[:_PENDING]
        for line in lines:
            self._see(line)

    def _see(self, line: bytes) -> None:
        self._number += 1
        if not line:
            return
        entry = (self._number, line[: 4 * _LINE])
        self._tail.append(entry)
        if any(word in line for word in _ERRORS):
            self._following = _AROUND
        if (self._number <= _HEAD or self._following) and len(self._kept) < _MOST:
            self._kept.append(entry)
        self._following = max(self._following - 1, 0)

    def lines(self) -> Iterator[str]:
        """What was kept, redacted, each with its number; dots where lines are left out."""
        last = 0
        for number, raw in sorted({**dict(self._kept), **dict(self._tail)}.items()):
            if number > last + 1:
                yield "..."
            last = number
            text = without_colours(raw).decode("utf-8", "replace").rpartition("\r")[2]
            yield f"{number:>6}  {redact(text)[:_LINE]}"


def bundle_lines(report: Report, excerpt: LogExcerpt) -> Iterator[str]:
    """The report as Markdown, ready for an issue."""
    state = report.server_state
    yield f"# {redact(answer(report))}"
    yield ""
    yield (
        f"Read by farspan {__version__}. Secrets, hosts, paths and prompts are removed; read it once "
        "more before you paste it."
    )
    yield ""
    yield "## Versions"
    yield ""
    for name, version in state.versions().items():
        yield f"- {name}: {version}"
    words = search_words(state)
    if words:
        yield ""
        yield f"Search for: `{words}`"
    for finding in report.findings:
        yield ""
        yield f"## {finding.severity.value}: {finding.id} ({finding.confidence.value})"
        yield ""
        yield redact(finding.cause)
        yield ""
        yield f"Line {finding.evidence.line}: `{redact(finding.evidence.text).strip()[:_LINE]}`"
    if state.args:
        yield ""
        yield "## Arguments"
        yield ""
        for name, value in sorted(state.args.items()):
            if value not in (None, False, "", [], {}, ()):
                yield f"- {redact(f'{name}={value}')[:_LINE]}"
    failure = state.failure
    if failure is not None and failure.frames:
        yield ""
        yield "## The first error's way"
        yield ""
        for file, function in failure.frames:
            yield f"- {redact(file)}: {function}"
    yield ""
    yield "## Log"
    yield ""
    yield "```text"
    yield from (line.replace("```", "'''") for line in excerpt.lines())
    yield "```"
