"""Patterns that cost no more than their text is long, whatever the text.

Logs are written by strangers: prompts, paths and error messages end up in them. Python's `re` backtracks, so that a
line made for the purpose can keep one pattern busy for minutes. RE2 cannot: it runs all ways through a pattern at
once, and refuses what would need more (look-around, back-references). Everything that is looked for anywhere in a line
is therefore an RE2 pattern. `re` is kept for what is matched from the start of a line by possessive repeats alone,
where there is nothing to go back to, and where its speed is needed: the prefix of a line and the lines that come by
the million.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

import re2  # type: ignore[import-untyped]

_MEMORY_BYTES = 64 << 20


def _options() -> Any:
    options = re2.Options()
    options.max_mem = _MEMORY_BYTES
    options.log_errors = False
    return options


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile an RE2 pattern: searched in linear time, with the methods of `re`'s patterns.

    Raises:
        re2.error: RE2 has no such pattern.
    """
    return cast("re.Pattern[str]", re2.compile(text, _options()))


class PatternSet:
    """Many patterns looked for at once, by the words they need: one pass over a line however many there are.

    Args:
        patterns: RE2 patterns.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._filter = re2.Filter()
        options = _options()
        for pattern in patterns:
            self._filter.Add(pattern, options)
        self._filter.Compile()

    def candidates(self, line: bytes) -> Sequence[int]:
        """The numbers of the patterns whose words the line has; whether they match is for the caller to see."""
        return cast("Sequence[int]", self._filter.Match(line, True) or ())
