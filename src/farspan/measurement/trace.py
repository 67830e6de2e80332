"""Traces of real load, in the public format of Mooncake that aiperf reads: one JSON object a line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import orjson

from farspan.errors import InputError

BLOCK_TOKENS = 512
_LONGEST_TOKENS = 2**31 - 1
_LARGEST_ID = 2**63 - 1
_FORM = (
    'write {"timestamp": 27, "input_length": 700, "output_length": 20, "hash_ids": [1, 2]}: milliseconds, tokens, and'
    f" one number for every {BLOCK_TOKENS} tokens of the prompt"
)


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """One request of a trace.

    Args:
        at_s: When it leaves, from the first one on.
        input_tokens, output_tokens: Lengths of prompt and answer.
        blocks: A number for every block of the prompt: the same number, the same tokens.
        cacheable_tokens: How many of its first tokens an earlier request of the trace has too.
    """

    at_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]
    cacheable_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace, in the order the requests leave.

    Args:
        path: Where it was read.
        requests: At least one.
    """

    path: Path
    requests: tuple[TracedRequest, ...]


def read_trace(path: Path) -> Trace:
    """Read a trace; empty lines and fields of other tools are left out.

    Raises:
        InputError: It cannot be read; the message names the first line that is wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror})", "name a trace, one JSON object a line"
        ) from error
    rows = [
        _read_line(path, number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()
    ]
    if not rows:
        raise InputError(f"{path} holds no request", _FORM)
    rows.sort(key=lambda row: row.at_s)
    return Trace(path, tuple(_find_cacheable(rows)))


def _read_line(path: Path, number: int, line: bytes) -> TracedRequest:
    def wrong(what: str) -> InputError:
        return InputError(f"line {number} of {path} {what}", _FORM)

    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise wrong("is not JSON") from None
    if not isinstance(row, Mapping):
        raise wrong("is not an object")
    at = row.get("timestamp")
    if isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at < math.inf:
        raise wrong("has no timestamp of 0 ms or more")
    prompt, answer = row.get("input_length"), row.get("output_length")
    if not (_is_count(prompt, _LONGEST_TOKENS) and _is_count(answer, _LONGEST_TOKENS) and prompt and answer):
        raise wrong("has no input_length and output_length of 1 or more")
    blocks = row.get("hash_ids")
    if not isinstance(blocks, list) or not all(_is_count(block, _LARGEST_ID) for block in blocks):
        raise wrong("has no hash_ids, a list of whole numbers of 0 or more")
    if len(blocks) != -(-prompt // BLOCK_TOKENS):
        raise wrong(f"has {len(blocks)} hash_ids for {prompt} tokens")
    return TracedRequest(float(at) / 1000, prompt, answer, tuple(blocks), 0)


def _is_count(value: Any, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _find_cacheable(rows: list[TracedRequest]) -> Iterator[TracedRequest]:
    """Yield the requests in order, from the first one's time on, each with what an earlier one has of it."""
    # A node is all blocks up to one; its children by the next block's number, with the most tokens of it seen.
    children: dict[tuple[int, int], tuple[int, int]] = {}
    for row in rows:
        node = cacheable = 0
        shared = True
        for place, block in enumerate(row.blocks):
            own = min(BLOCK_TOKENS, row.input_tokens - place * BLOCK_TOKENS)
            following, seen = children.get((node, block), (len(children) + 1, 0))
            if shared:
                cacheable += min(own, seen)
                shared = seen >= own == BLOCK_TOKENS
            children[node, block] = following, max(own, seen)
            node = following
        yield TracedRequest(
            row.at_s - rows[0].at_s,
            row.input_tokens,
            row.output_tokens,
            row.blocks,
            min(cacheable, row.input_tokens - 1),
        )
