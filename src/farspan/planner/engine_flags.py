"""Reading the flags after `--` the way the engines' own parsers do."""

from __future__ import annotations

import re
from collections.abc import Sequence

from farspan.errors import InputError

_SHORT = {"-tp": "--tensor-parallel-size", "-pp": "--pipeline-parallel-size", "-dp": "--data-parallel-size"}
_NUMBER = re.compile(r"-\d+(\.\d+)?")


def _is_name(word: str) -> bool:
    return word.startswith("-") and _NUMBER.fullmatch(word) is None


def parse_engine_flags(words: Sequence[str]) -> dict[str, str | None]:
    """Turn `--name value`, `--name=value` and switches into a map; a switch maps to None.

    Underscores in names mean dashes, as in vLLM; several values after one name are joined by spaces; a flag
    given twice keeps its last value, as argparse does.

    Raises:
        InputError: A word follows no flag.
    """
    flags: dict[str, str | None] = {}
    name = ""
    for word in words:
        if _is_name(word):
            name, equals, value = word.partition("=")
            name = _SHORT.get(name, name)
            name = "--" + name.lstrip("-").replace("_", "-")
            flags[name] = value if equals else None
            if equals:
                name = ""
        elif not name:
            raise InputError(
                f"{word!r} after -- belongs to no engine flag", "write engine flags as --name value"
            )
        else:
            before = flags[name]
            flags[name] = word if before is None else f"{before} {word}"
    return flags
