"""The parts of a prompt: runs of text with their ids, and runs of words chosen from a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from farspan.prompts.ragged import Ragged
from farspan.prompts.tokenizer import TokenIds, Tokenizer, as_ids

# Words turned into text at a time.
_WORDS_IN_A_CHUNK = 2**17


class Part(Protocol):
    """Some consecutive tokens of a prompt and the text they stand for."""

    @property
    def tokens(self) -> int:
        """How many tokens it is."""

    def ids(self) -> TokenIds:
        """Return the ids, int32 [tokens]."""

    def iter_text(self) -> Iterator[bytes | memoryview]:
        """Yield the text as UTF-8, in pieces that end between characters."""

    def text_before(self, token: int) -> bytes:
        """Return the text before one of its tokens at which something planted begins."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A run of text; usually views of mapped files.

    Attributes:
        token_ids: int32 [tokens].
        content: UTF-8.
    """

    token_ids: TokenIds
    content: bytes | memoryview

    @property
    def tokens(self) -> int:
        """How many tokens it is."""
        return len(self.token_ids)

    def ids(self) -> TokenIds:
        """Return the ids."""
        return self.token_ids

    def iter_text(self) -> Iterator[bytes | memoryview]:
        """Yield the text at once."""
        yield self.content

    def text_before(self, token: int) -> bytes:
        """Return nothing: what is planted is a part of its own, so it begins where the part does."""
        assert token == 0, "a piece is planted inside a run of text"
        return b""


@dataclass(frozen=True, slots=True)
class WordTable:
    """Words, each with its leading space, and the ids each contributes behind a cut.

    Attributes:
        text: The words.
        ids: Their ids.
    """

    text: Ragged
    ids: Ragged

    @classmethod
    def of(cls, tokenizer: Tokenizer, words: Sequence[str]) -> WordTable:
        """Encode words, each written with its leading space."""
        return cls(Ragged.of_strings(words), Ragged.of_arrays(tokenizer.encode_pieces(words)))


@dataclass(frozen=True, slots=True)
class WordsPart:
    """A run of words from a table; a few bytes a word until it is asked for.

    Attributes:
        table: The words.
        chosen: Which word stands where, an unsigned integer type.
        tokens: How many tokens all of it is.
    """

    table: WordTable
    chosen: NDArray[np.unsignedinteger]
    tokens: int

    @classmethod
    def of(cls, table: WordTable, chosen: NDArray[np.unsignedinteger]) -> WordsPart:
        """Make a part, counting its tokens."""
        return cls(table, chosen, int(table.ids.lengths[chosen].sum()))

    def ids(self) -> TokenIds:
        """Return the ids."""
        return as_ids(self.table.ids.gather(self.chosen))

    def iter_text(self) -> Iterator[bytes | memoryview]:
        """Yield the text, many words at a time."""
        for chosen in self._chunks():
            yield self.table.text.gather(chosen).tobytes()

    def text_before(self, token: int) -> bytes:
        """Return the words before the one that begins at a token."""
        ends = np.cumsum(self.table.ids.lengths[self.chosen])
        words = int(np.searchsorted(ends, token, side="right"))
        return self.table.text.gather(self.chosen[:words]).tobytes()

    def _chunks(self) -> list[NDArray[np.unsignedinteger]]:
        starts = range(0, len(self.chosen), _WORDS_IN_A_CHUNK)
        return [self.chosen[start : start + _WORDS_IN_A_CHUNK] for start in starts]
