"""The arguments an engine printed at its start, read back without running anything."""

from __future__ import annotations

import ast
import re
from functools import lru_cache

from farspan.engines.logs.pattern import compile_pattern

_VALUE = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s,()\[\]{}]+"
_PAIR = compile_pattern(rf"\b(?P<name>[A-Za-z_]\w*)=(?P<value>{_VALUE})")
_DICT_PAIR = compile_pattern(rf"'(?P<name>[A-Za-z_]\w*)': (?P<value>\['[^']*'\]|{_VALUE})")
_BARE = re.compile(r"[\w.:/+-]*")
_AFTER_VALUE = ("", ",", ")", " ", "\t")
_MAX_TEXT = 40_000
# A server that is started again and again prints the same arguments each time, and has hundreds of them.
_KEPT = 8


def read_dict(text: str) -> dict[str, object]:
    """Read `{'host': '127.0.0.1', 'max_model_len': 5242880, ...}`.

    A dict that is cut short, or holds an object's repr, is read pair by pair; nested values are left out then.
    """
    return dict(_read_dict(text[:_MAX_TEXT]))


@lru_cache(maxsize=_KEPT)
def _read_dict(text: str) -> dict[str, object]:
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if isinstance(value, dict):
        return {str(name): part for name, part in value.items()}
    return {match["name"]: _literal(match["value"]) for match in _DICT_PAIR.finditer(text)}


def read_pairs(text: str) -> dict[str, object]:
    """Read `model_path='/m', tp_size=8, ...`: scalars only, the first of each name."""
    return dict(_read_pairs(text[:_MAX_TEXT]))


@lru_cache(maxsize=_KEPT)
def _read_pairs(text: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for match in _PAIR.finditer(text):
        if text[match.end() : match.end() + 1] in _AFTER_VALUE:
            found.setdefault(match["name"], _literal(match["value"]))
    return found


def _literal(text: str) -> object:
    try:
        value: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text if _BARE.fullmatch(text) else text[:200]
    return value
