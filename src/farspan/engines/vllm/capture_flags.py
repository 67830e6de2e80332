"""What the flags say of CUDA graphs, and flags whose value is JSON."""

from __future__ import annotations

import json
from typing import NamedTuple

from farspan.engines.vllm.flag_checks import capture_size
from farspan.errors import InputError
from farspan.planner.request import PlanRequest

_COMPILATION = ("--compilation-config", "-cc", "-O")
_DEFAULT_MODES = ("", "FULL_AND_PIECEWISE", "FULL", "FULL_DECODE_ONLY", "2")


class Captures(NamedTuple):
    """Batch sizes captured, the largest, whether none is, and whether whole decode steps are."""

    sizes: tuple[int, ...] | None = None
    largest: int | None = None
    none: bool = False
    full: bool = True


def read_captures(request: PlanRequest) -> Captures:
    """vllm config/compilation.py: cudagraph_capture_sizes, max_cudagraph_capture_size, cudagraph_mode, level.

    Raises:
        InputError: A value that is no JSON object, or no batch size.
    """
    text = request.text_flag("", *_COMPILATION)
    if text.isdigit():
        return Captures(none=text == "0", full=text != "0")
    given = json_flag(request, *_COMPILATION)
    sizes = given.get("cudagraph_capture_sizes")
    if request.has_flag("--cudagraph-capture-sizes"):
        sizes = request.text_flag("", "--cudagraph-capture-sizes").split()
    largest = given.get("max_cudagraph_capture_size")
    if request.has_flag("--max-cudagraph-capture-size"):
        largest = request.int_flag(0, "--max-cudagraph-capture-size")
    mode = str(given.get("cudagraph_mode", request.text_flag("", "--cudagraph-mode"))).upper()
    listed = tuple(sorted({capture_size(size) for size in sizes})) if isinstance(sizes, list) else None
    return Captures(
        listed,
        int(largest) if isinstance(largest, int) and largest else None,
        mode in ("NONE", "0"),
        mode in _DEFAULT_MODES,
    )


def json_flag(request: PlanRequest, *names: str) -> dict[str, object]:
    """A flag whose value is a JSON object; empty when it is not given.

    Raises:
        InputError: The value is something else.
    """
    text = request.text_flag("", *names)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        raise InputError(f"{names[0]} {text!r} is not JSON", 'write it as \'{"key": "value"}\'') from None
    if not isinstance(value, dict):
        raise InputError(f"{names[0]} {text!r} is not a JSON object", 'write it as \'{"key": "value"}\'')
    return value
