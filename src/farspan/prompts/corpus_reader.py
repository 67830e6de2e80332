"""Reading an indexed corpus from a random place on, round and round, in runs that end at cuts."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farspan.errors import InputError
from farspan.prompts.cuts import find_cuts
from farspan.prompts.index import CorpusIndex, IndexedSegment
from farspan.prompts.parts import TextPart
from farspan.prompts.tokenizer import TokenIds, Tokenizer


@dataclass(frozen=True, slots=True)
class _Place:
    """A cut: its token and its byte, counted from the start of a segment."""

    token: int
    byte: int


class CorpusReader:
    """A cursor over a corpus that starts at a random cut and wraps around.

    Args:
        index: The corpus.
        tokens: About how many tokens will be read; an endless corpus is cut to that length before it wraps.
        choice: Decides where to start.

    Raises:
        InputError: The corpus holds no text.
    """

    def __init__(self, index: CorpusIndex, tokens: int, choice: random.Random) -> None:
        self._index = index
        self._count = index.corpus.segments or 1 + -(-tokens // index.segment(0).tokens)
        self._number = choice.randrange(self._count)
        self._place = _Place(0, 0)
        self._skip_empty()
        segment = index.segment(self._number)
        needed = min(self._count, 2 + -(-tokens // max(segment.tokens, 1)))
        index.prepare((self._number + i) % self._count for i in range(needed))
        self._place = _random_cut(index.tokenizer, segment, choice)

    def read(self, tokens: int, slack: int = 0) -> list[TextPart]:
        """Return at most `tokens` tokens from the cursor on, ending at a cut, and move the cursor there.

        Args:
            tokens: The most to return; what is missing is less than one word's tokens.
            slack: End up to this many tokens earlier where that ends a sentence.
        """
        parts: list[TextPart] = []
        while tokens > 0:
            segment = self._index.segment(self._number)
            here = self._place
            if segment.tokens - here.token <= tokens:
                there = _Place(segment.tokens, len(segment.text))
            else:
                there = _last_cut(self._index.tokenizer, segment, here, here.token + tokens, slack)
            if there.token > here.token:
                parts.append(
                    TextPart(segment.ids[here.token : there.token], segment.text[here.byte : there.byte])
                )
            tokens -= there.token - here.token
            if there.token < segment.tokens:
                self._place = there
                break
            self._number = (self._number + 1) % self._count
            self._place = _Place(0, 0)
            self._skip_empty()
        return parts

    def _skip_empty(self) -> None:
        for _ in range(self._count):
            if self._index.segment(self._number).tokens:
                return
            self._number = (self._number + 1) % self._count
        raise InputError(f"{self._index.corpus.name} holds no text", "give a corpus with words in it")


def _random_cut(tokenizer: Tokenizer, segment: IndexedSegment, choice: random.Random) -> _Place:
    """Choose where to start: a sentence of a random piece, or a word where the piece has no sentences."""
    number = choice.randrange(len(segment.marks) - 1)
    piece, ids = segment.piece(number)
    cuts = find_cuts(piece, sentences=True) or find_cuts(piece) or [0]
    cut = choice.choice(cuts)
    token, byte = segment.marks[number].tolist()
    before = piece[:cut]
    return _Place(token + _count(tokenizer, before, ids), byte + len(before.encode()))


def _count(tokenizer: Tokenizer, before: str, ids: TokenIds) -> int:
    """Return how many of a piece's ids stand for the text before a cut."""
    if not before:
        return 0
    lengths = tokenizer.byte_lengths(ids)
    if lengths is None:
        return len(tokenizer.encode_piece(before))
    return int(np.searchsorted(np.cumsum(lengths), len(before.encode()))) + 1


def _last_cut(tokenizer: Tokenizer, segment: IndexedSegment, here: _Place, limit: int, slack: int) -> _Place:
    """Return the last cut of a segment at which at most `limit` tokens stand before; never before `here`."""
    number = segment.piece_at(limit)
    piece, ids = segment.piece(number)
    token, byte = segment.marks[number].tolist()
    best = max(here, _Place(token, byte), key=lambda place: place.token)
    for sentences in (True, False) if slack else (False,):
        cuts = find_cuts(piece, sentences=sentences)
        chosen, count = _last_within(tokenizer, piece, ids, cuts, limit - token)
        if count and token + count > here.token and (not sentences or token + count >= limit - slack):
            return _Place(token + count, byte + len(piece[:chosen].encode()))
    return best


def _last_within(
    tokenizer: Tokenizer, piece: str, ids: TokenIds, cuts: list[int], limit: int
) -> tuple[int, int]:
    """Return the last of the cuts with at most `limit` tokens before it, and those tokens; (0, 0) if none."""
    lengths = tokenizer.byte_lengths(ids)
    if lengths is not None:
        return _last_by_length(piece, np.cumsum(lengths), cuts, limit)
    best = (0, 0)
    low, high = 0, len(cuts)
    while low < high:
        middle = (low + high) // 2
        count = len(tokenizer.encode_piece(piece[: cuts[middle]])) if cuts[middle] else 0
        if count <= limit:
            best = (cuts[middle], count)
            low = middle + 1
        else:
            high = middle
    return best


def _last_by_length(piece: str, ends: NDArray[np.int64], cuts: list[int], limit: int) -> tuple[int, int]:
    if limit <= 0 or not cuts:
        return 0, 0
    # A cut counts when its byte lies at or before the end of the last token allowed.
    last_byte = int(ends[min(limit, len(ends)) - 1])
    characters = len(piece.encode()[:last_byte].decode("utf-8", "ignore"))
    position = int(np.searchsorted(cuts, characters, side="right")) - 1
    if position < 0 or cuts[position] == 0:
        return 0, 0
    byte = len(piece[: cuts[position]].encode())
    return cuts[position], int(np.searchsorted(ends, byte)) + 1
