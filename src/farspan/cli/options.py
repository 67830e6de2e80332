"""How option values that several verbs take are read."""

from __future__ import annotations

from typing import Any

import orjson

from farspan.errors import InputError


def parse_fractions(text: str) -> tuple[float, ...]:
    """Parse a comma-separated list of fractions such as `0.1,0.9`.

    Raises:
        InputError: It is not a list of numbers from 0 to 1.
    """
    try:
        fractions = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        fractions = ()
    if not fractions or not all(0 <= fraction <= 1 for fraction in fractions):
        raise InputError(f"{text!r} is not a list of fractions from 0 to 1", "write it as 0.1,0.9")
    return fractions


def parse_json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        InputError: It is not JSON, or not an object.
    """
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{text!r} is not JSON ({error})", 'write it as {"top_k": 1}') from error
    if not isinstance(parsed, dict):
        raise InputError(f"{text!r} is not a JSON object", 'write it as {"top_k": 1}')
    return parsed
