"""Finding the lines that may matter, fast enough for gigabytes: no Python runs for a line that does not.

Every pattern the grammar or a rule looks for has a needle, some bytes its line must contain. Of each needle
four bytes are picked, and one pass of numpy over many lines looks up the four bytes at every position in a
table of 2^20 entries. What it finds are candidates; a few are chance, and the caller looks closely anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from farspan.errors import InputError

GRAM = 4
_BITS = 20
_MULTIPLIER = np.uint32(2654435761)  # Knuth's multiplicative hash, 2^32 over the golden ratio
_SHIFT = np.uint32(32 - _BITS)
# What most lines of a long log look like: a gram found here would make every such line a candidate.
_COMMON = (
    b"2026-11-22T20:03:32.123456789Z stderr F (APIServer pid=811) INFO:     127.0.0.1:37086 - "
    b'"POST /v1/chat/completions HTTP/1.1" 200 OK\n'
    b'[2026-11-22 20:23:22] INFO:     10.0.0.1:48112 - "GET /health HTTP/1.1" 200 OK\n'
    b'\x1b[32mINFO\x1b[0m:     172.17.0.1:1 - "\x1b[1mGET /metrics HTTP/1.1\x1b[0m" \x1b[32m200 OK\x1b[0m\n'
    b"(APIServer pid=811) INFO 11-22 20:03:32 [loggers.py:273] Engine 000: Avg prompt throughput: 6070.5 tokens/s, "
    b"Avg generation throughput: 3.0 tokens/s, Running: 1 reqs, Waiting: 0 reqs, GPU KV cache usage: 1.8%, "
    b"Prefix cache hit rate: 0.0%\n"
    b"[2026-11-22 20:23:21 TP0] Prefill batch, #new-seq: 1, #new-token: 8192, #cached-token: 0, full token usage: "
    b"0.00, swa token usage: 0.00, #running-req: 0, #queue-req: 0, #pending-token: 0, cuda graph: False, "
    b"input throughput (token/s): 2.53\n"
    b"[2026-11-22 20:23:21 TP0] Decode batch, #running-req: 1, #full token: 12, token usage: 0.00, #queue-req: 0, "
    b"gen throughput (token/s): 25.1,\n"
    b"INFO 11-22 20:03:32 [logger.py:40] Received request chatcmpl-1: prompt: 'the and for that with have this "
    b"from are not you was', params: SamplingParams(n=1, temperature=0.0, max_tokens=200), prompt_token_ids: None, "
    b"lora_request: None.\n"
    b"INFO 11-22 20:03:32 [async_llm.py:361] Added request chatcmpl-1. Route: /v1/completions, Methods: POST "
    b"request_id= model= tokens\n"
)
_LETTERS = b" etaoinsrhldcumfpgwybvkxjqz"


_WORD = 8
# How a line of uvicorn's access log ends that tells of a plain success, with and without colours.
_SUCCESS_ENDS = (b'" 200 OK', b'" 200 OK\r', b"200 OK\x1b[0m", b"200 OK\x1b[0m\r")
_SUCCESSES = tuple(
    (len(end), *(int.from_bytes(eight, "little") for eight in (end[-_WORD:], end[:_WORD])))
    for end in _SUCCESS_ENDS
)


class Telling(NamedTuple):
    """The lines of a block that may say something.

    Args:
        lines: Each with its place in the block, from 0.
        total: How many lines the block has; the last may be unfinished, or empty.
    """

    lines: list[tuple[int, bytes]]
    total: int


def telling_lines(block: bytes) -> Telling:
    """Take a block apart into lines and leave out those that tell of a plain success.

    Line ends are found with numpy, and the eight bytes before each compared as one number: a busy server logs ten
    successes to any other line, and none of them becomes a Python object.
    """
    size = len(block)
    if size < _WORD:
        lines = block.split(b"\n")
        return Telling(list(enumerate(lines)), len(lines))
    ends = np.append(np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")), size)
    words = np.ndarray((size - _WORD + 1,), dtype="<u8", buffer=block, strides=(1,))
    # No end of a success has a line break in it: where a line is shorter, the comparison fails by itself.
    last = words[np.maximum(ends - _WORD, 0)]
    success = np.zeros(len(ends), dtype=bool)
    for length, tail, head in _SUCCESSES:
        found = last == tail
        if length > _WORD and found.any():
            found &= words[np.maximum(ends - length, 0)] == head
        success |= found
    kept = np.flatnonzero(~success)
    begins = np.where(kept > 0, ends[kept - 1] + 1, 0)
    spans = zip(kept.tolist(), begins.tolist(), ends[kept].tolist(), strict=True)
    return Telling([(at, block[begin:end]) for at, begin, end in spans], len(ends))


def pick_gram(needle: bytes) -> bytes:
    """The four bytes of a needle least likely in an ordinary line.

    Raises:
        InputError: The needle is shorter than four bytes.
    """
    if len(needle) < GRAM:
        raise InputError(f"needle {needle!r} is shorter than {GRAM} bytes", "give a longer one")

    def commonness(gram: bytes) -> tuple[int, int]:
        return _COMMON.count(gram), sum(26 - _LETTERS.find(byte) for byte in gram if byte in _LETTERS)

    return min((needle[at : at + GRAM] for at in range(len(needle) - GRAM + 1)), key=commonness)


class Scanner:
    """Looks for the lines of a block of bytes that may contain one of the needles."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        self._table = np.zeros(1 << _BITS, dtype=bool)
        self._needles: dict[int, list[bytes]] = {}
        for needle in dict.fromkeys(needles):
            (slot,) = self._slots(np.frombuffer(pick_gram(needle), dtype="<u4").copy()).tolist()
            self._table[slot] = True
            self._needles.setdefault(slot, []).append(needle)

    @staticmethod
    def _slots(grams: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        grams *= _MULTIPLIER
        grams >>= _SHIFT
        return grams

    def candidates(self, lines: list[bytes]) -> dict[int, tuple[bytes, ...]]:
        """The positions in `lines` of those with a needle's four bytes, each with the needles it has in full."""
        block = b"\n".join(lines)
        size = len(block)
        if size < GRAM:
            return {}
        # Four overlapping bytes at every position, without copying the block four times.
        grams = np.ndarray((size - GRAM + 1,), dtype="<u4", buffer=block, strides=(1,))
        slots = self._slots(grams.astype(np.uint32))
        hits = np.flatnonzero(self._table[slots])
        if not len(hits):
            return {}
        ends = np.cumsum([len(line) + 1 for line in lines])
        positions = np.searchsorted(ends, hits, side="right").tolist()
        possible: dict[int, set[int]] = {}
        for position, slot in zip(positions, slots[hits].tolist(), strict=True):
            possible.setdefault(position, set()).add(slot)
        found = {}
        for position, seen in possible.items():
            line = lines[position]
            found[position] = tuple(
                needle for slot in seen for needle in self._needles[slot] if needle in line
            )
        return found
