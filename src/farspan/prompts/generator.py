"""Built-in text: English-like, seeded, not repeating, made by gathering phrases with numpy.

A sentence is a sequence of slots and a slot a choice among phrases, so a block of text is two draws and one gather.
The most common shape alone has 10^9 sentences, so a 10M-token prompt (about 900,000 sentences) hardly ever says
the same thing twice, and never repeats a passage.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from farspan.prompts import lexicon
from farspan.prompts.ragged import Ragged

# Part of the key of cached indexes: raise it whenever the text of a seed changes.
GENERATOR_VERSION = 1

# Sentences made in one go: their index arrays stay within a core's cache.
_BATCH = 2048


@dataclass(frozen=True, slots=True)
class _Grammar:
    phrases: Ragged
    first: NDArray[np.int64]  # slot -> its first phrase
    count: NDArray[np.uint64]  # slot -> how many phrases it has
    sentences: NDArray[np.int64]  # [sentence shape, slot]; -1 after the last slot


@cache
def _grammar() -> _Grammar:
    categories = lexicon.categories()
    index = {name: i for i, name in enumerate(categories)}
    shapes = [["gap", *sentence] for sentence in lexicon.SENTENCES]
    table = np.full((len(shapes), max(map(len, shapes))), -1, np.int64)
    for row, shape in zip(table, shapes, strict=True):
        row[: len(shape)] = [index[slot] for slot in shape]
    sizes = np.array([len(phrases) for phrases in categories.values()])
    return _Grammar(
        phrases=Ragged.of_strings([phrase for phrases in categories.values() for phrase in phrases]),
        first=np.cumsum(sizes) - sizes,
        count=sizes.astype(np.uint64),
        sentences=table,
    )


def generate_text(size: int, seed: int, part: int = 0) -> bytes:
    """Return `size` bytes of text, or up to one sentence fewer; it begins with a space and ends a sentence.

    Args:
        size: Bytes wanted, at least a few hundred.
        seed: Different seeds give different texts.
        part: Number of this part of the seed's endless text; parts are independent of each other.
    """
    grammar = _grammar()
    # Raw bits, scaled here: the stream of a bit generator is guaranteed never to change, its distributions are not.
    bits = np.random.PCG64(np.random.SeedSequence((GENERATOR_VERSION, seed, part)))
    pieces: list[NDArray[np.uint8]] = []
    made = 0
    while made < size:
        shapes = _below(bits, np.full(_BATCH, len(grammar.sentences), np.uint64))
        rows = grammar.sentences[shapes]
        slots = rows[rows >= 0]
        pieces.append(grammar.phrases.gather(grammar.first[slots] + _below(bits, grammar.count[slots])))
        made += len(pieces[-1])
    text = np.concatenate(pieces)[:size].tobytes()
    end = max(text.rfind(b". "), text.rfind(b".\n"), text.rfind(b"! "), text.rfind(b"!\n"))
    return b" " + text[: end + 1].lstrip()


def _below(bits: np.random.PCG64, limits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Draw one number below each limit (limits under 2^32)."""
    raw = bits.random_raw(len(limits))
    return (((raw >> np.uint64(32)) * limits) >> np.uint64(32)).astype(np.int64)
