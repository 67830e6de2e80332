"""A checkpoint's model.safetensors.index.json: which files hold its weights, and how many bytes they come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from farspan.errors import InputError

INDEX_FILE = "model.safetensors.index.json"
_MAX_FILE_BYTES = 64 * 2**20  # a trillion parameters in packed experts take about 20 MiB of names
MAX_TOTAL_BYTES = 2**50  # of all weights; no checkpoint has as many


class WeightIndex(NamedTuple):
    """What an index says.

    Args:
        files: The names of the weight files; None where they cannot be read.
        total_size: Bytes of all weights; 0 where it does not say.
    """

    files: frozenset[str] | None = None
    total_size: int = 0


def read_weight_index(file: Path) -> WeightIndex:
    """Read an index; one that cannot be read, or is larger than any, says nothing.

    Raises:
        InputError: It says more bytes than any checkpoint has.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_FILE_BYTES + 1)
        value = json.loads(content) if len(content) <= _MAX_FILE_BYTES else None
    except (OSError, ValueError, RecursionError):
        return WeightIndex()
    if not isinstance(value, dict):
        return WeightIndex()
    weight_map, metadata = value.get("weight_map"), value.get("metadata")
    named = list(weight_map.values()) if isinstance(weight_map, dict) else [None]
    files = frozenset(name for name in named if isinstance(name, str))
    total = metadata.get("total_size") if isinstance(metadata, dict) else 0
    if isinstance(total, bool) or not isinstance(total, int | float) or not total > 0:
        total = 0
    if total > MAX_TOTAL_BYTES:
        raise InputError(
            f"{file}: total_size is more than {MAX_TOTAL_BYTES // 2**50} PiB, beyond any checkpoint's",
            "download the checkpoint's index again",
        )
    return WeightIndex(files if all(isinstance(name, str) for name in named) else None, int(total))
