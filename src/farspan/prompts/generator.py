"""Built-in text: English-like, seeded, not repeating, made by gathering phrases with numpy.

A sentence is a sequence of slots and a slot a choice among phrases, so a block of text is two draws and one gather.
The most common shapes alone have 10^9 sentences and more, so a 10M-token prompt (about 900,000 sentences) hardly ever
says the same thing twice, and never repeats a passage.
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
class Grammar:
    """Phrases and how sentences are made of them.

    Attributes:
        phrases: All phrases; each begins with a space and ends in another character.
        text: The same, packed.
        first: The first phrase of each slot.
        count: How many phrases each slot has.
        sentences: The slots of each shape of sentence, -1 after the last, [shapes, slots].
    """

    phrases: tuple[str, ...]
    text: Ragged
    first: NDArray[np.int64]
    count: NDArray[np.uint64]
    sentences: NDArray[np.int64]


@cache
def grammar() -> Grammar:
    """Return the built-in grammar."""
    categories = lexicon.categories()
    index = {name: i for i, name in enumerate(categories)}
    shapes = np.full((len(lexicon.SENTENCES), max(map(len, lexicon.SENTENCES))), -1, np.int64)
    for row, sentence in zip(shapes, lexicon.SENTENCES, strict=True):
        row[: len(sentence)] = [index[slot] for slot in sentence]
    sizes = np.array([len(phrases) for phrases in categories.values()])
    phrases = tuple(phrase for phrases in categories.values() for phrase in phrases)
    return Grammar(
        phrases=phrases,
        text=Ragged.of_strings(phrases),
        first=np.cumsum(sizes) - sizes,
        count=sizes.astype(np.uint64),
        sentences=shapes,
    )


def choose_phrases(size: int, seed: int, part: int = 0) -> NDArray[np.int64]:
    """Return the phrases of a text of whole sentences of at most `size` bytes, as indices into the grammar's.

    Args:
        size: Bytes; at least a few hundred.
        seed: Different seeds give different texts.
        part: Number of this part of the seed's endless text; parts are independent of each other.
    """
    rules = grammar()
    # Raw bits, scaled here: the stream of a bit generator is guaranteed never to change, its distributions are not.
    bits = np.random.PCG64(np.random.SeedSequence((GENERATOR_VERSION, seed, part)))
    batches: list[NDArray[np.int64]] = []
    made = 0
    while made < size:
        rows = rules.sentences[_below(bits, np.full(_BATCH, len(rules.sentences), np.uint64))]
        used = rows >= 0
        slots = rows[used]
        chosen = rules.first[slots] + _below(bits, rules.count[slots])
        ends = np.cumsum(used.sum(axis=1))
        sizes = made + np.cumsum(rules.text.lengths[chosen])[ends - 1]
        whole = int(np.searchsorted(sizes, size, side="right"))
        batches.append(chosen[: ends[whole - 1]] if whole else chosen[:0])
        made = int(sizes[-1])
    return np.concatenate(batches)


def generate_text(size: int, seed: int, part: int = 0) -> bytes:
    """Return whole sentences of at most `size` bytes; the first begins with a space. See `choose_phrases`."""
    return grammar().text.gather(choose_phrases(size, seed, part)).tobytes()


def _below(bits: np.random.PCG64, limits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Draw one number below each limit (limits under 2^32)."""
    raw = bits.random_raw(len(limits))
    return (((raw >> np.uint64(32)) * limits) >> np.uint64(32)).astype(np.int64)
