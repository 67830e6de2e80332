"""What to search an engine's issues for: the words of an error that do not change from machine to machine."""

from __future__ import annotations

from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.server_state import ServerState
from farspan.engines.logs.tracebacks import Traceback

_CHANGING = compile_pattern(
    r"'[^']{0,300}'|\"[^\"]{0,300}\"|`[^`]{0,300}`|\([^()]{0,300}\)|\{[^{}]{0,300}\}|\[[^\[\]]{0,300}\]|"
    r"\S*/\S*|\S*\d\S*|<[^<>]{0,200}>"
)
_QUOTED = compile_pattern(r"'([\w.-]{3,200})'")
_SPACES = compile_pattern(r"[\s,;:.]{2,}|\s+$")
_LEAST_WORDS = 2
_MOST = 120


def words_of(error: Traceback) -> str:
    """The longest run of an error's words without names, numbers and paths, after the error's class."""
    name = error.type.partition("(")[0].rpartition(".")[2]
    runs = [part.strip(" ,;:.!-=") for part in _CHANGING.sub("\n", error.text[:600]).split("\n")]
    best = max((run for run in runs if len(run.split()) >= _LEAST_WORDS), key=len, default="")
    best = _SPACES.sub(" ", best)[:_MOST].strip()
    if not best:
        # A missing key, say: the last part of its name that has no number.
        quoted = _QUOTED.search(error.text)
        parts = quoted[1].split(".") if quoted is not None else []
        best = next((part.rstrip("_0123456789") for part in reversed(parts) if not part.isdigit()), "")
    return " ".join(
        part for part in (name, f'"{best}"' if best else "", error.place.partition(":")[0]) if part
    )


def search_words(state: ServerState) -> str:
    """Of the first error of a server; empty where there is none."""
    after = state.ready.line if state.ready is not None else 0
    error = state.failure or state.tracebacks.first(after, state.explained)
    return words_of(error) if error is not None else ""
