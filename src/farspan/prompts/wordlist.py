"""Bodies made of words with known counts: shuffled, exact in length, without encoding anything but each word once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farspan.prompts.parts import WordsPart, WordTable
from farspan.prompts.tokenizer import Tokenizer

_COMMON_TIMES = 30
_UNCOMMON_TIMES = 3
_EXPONENT = 2.0


@dataclass(frozen=True, slots=True)
class WordList:
    """A body of words.

    Attributes:
        part: The words.
        first: For each word asked for, the index of its first token in the body, ascending.
    """

    part: WordsPart
    first: tuple[int, ...]


@dataclass(frozen=True)
class WordCounts(ABC):
    """Decides how often each word stands in a body of a given length.

    Attributes:
        words: Without spaces; those asked for come first.
    """

    words: tuple[str, ...]

    @property
    @abstractmethod
    def answer_count(self) -> int:
        """How many words the answer has."""

    @abstractmethod
    def counts(self, lengths: NDArray[np.int64], tokens: int) -> NDArray[np.int64] | None:
        """Return each word's count, as many as fit; None when a body this short cannot tell them apart.

        Args:
            lengths: Tokens of each word.
            tokens: Length of the body.
        """

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return about how many tokens the shortest body has, to the next power of two."""
        lengths = WordTable.of(tokenizer, [f" {word}" for word in self.words]).ids.lengths
        tokens = 1
        while self.counts(lengths, tokens) is None and tokens < 2**40:
            tokens *= 2
        return tokens

    def lay_out(self, tokenizer: Tokenizer, tokens: int, seed: int) -> WordList | None:
        """Return the words in random order, at most `tokens` tokens and less than one word fewer; None if too short."""
        table = WordTable.of(tokenizer, [f" {word}" for word in self.words])
        lengths = table.ids.lengths
        counts = self.counts(lengths, tokens)
        if counts is None:
            return None
        # Rare words once more each, as long as there is room.
        rare = np.arange(self.answer_count, len(lengths))
        room = tokens - int((counts * lengths).sum())
        while room >= lengths[rare].min():
            extra = rare[np.cumsum(lengths[rare]) <= room]
            if not len(extra):
                break
            counts[extra] += 1
            room -= int(lengths[extra].sum())
        # The legacy generator: numpy promises that its shuffles never change.
        order = np.random.RandomState(np.random.MT19937(np.random.SeedSequence((2, seed % 2**64))))
        chosen = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
        order.shuffle(chosen)
        first = [
            int(lengths[chosen[: int(np.argmax(chosen == word))]].sum()) for word in range(self.answer_count)
        ]
        return WordList(WordsPart.of(table, chosen), tuple(sorted(first)))


@dataclass(frozen=True)
class CommonCounts(WordCounts):
    """A few words stand ten times as often as each of the others.

    30 times against 3 as in RULER, the other words as many as fit; once all words are used, both grow.
    """

    common: int

    @property
    def answer_count(self) -> int:
        """How many words the answer has."""
        return self.common

    def counts(self, lengths: NDArray[np.int64], tokens: int) -> NDArray[np.int64] | None:
        """Return the counts."""
        common, others = int(lengths[: self.common].sum()), np.cumsum(lengths[self.common :])
        for uncommon_times in (_UNCOMMON_TIMES, 1):
            times = uncommon_times * _COMMON_TIMES // _UNCOMMON_TIMES
            used = int(np.searchsorted(others * uncommon_times, tokens - common * times, side="right"))
            if used >= self.common:
                break
        else:
            return None
        counts = np.zeros(len(lengths), np.int64)
        if used == len(others):
            ratio = _COMMON_TIMES // _UNCOMMON_TIMES
            uncommon_times = tokens // (common * ratio + int(others[-1]))
            times = uncommon_times * ratio
        counts[: self.common] = times
        counts[self.common : self.common + used] = uncommon_times
        return counts


@dataclass(frozen=True)
class ZipfCounts(WordCounts):
    """Counts fall as 1 / rank^2, so the first few are far apart."""

    frequent: int

    @property
    def answer_count(self) -> int:
        """How many words the answer has."""
        return self.frequent

    def counts(self, lengths: NDArray[np.int64], tokens: int) -> NDArray[np.int64] | None:
        """Return the counts."""
        shares = np.arange(1, len(lengths) + 1) ** -_EXPONENT
        counts: NDArray[np.int64] = np.floor(tokens / (shares * lengths).sum() * shares).astype(np.int64)
        # Rare words may get one more each; those asked for must stay ahead by more than that.
        if counts[self.frequent - 1] <= counts[self.frequent] + 1:
            return None
        return counts
