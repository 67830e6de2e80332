"""Tokenizers: what turns text into the token ids a server will count."""

# ruff: noqa: SIM905 - word lists read better as text

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farspan.errors import InputError
from farspan.prompts.cuts import Proof

TokenIds = NDArray[np.int32]

# Words that most vocabularies hold as one token after a space; the last few tokens of a prompt are made of them.
_COMMON_WORDS = (
    "and so then now also here there still again too yet just even only more most very well once that this "
    "the a in of to for on is it he we they was as at by one two all time day way man old new good first"
).split()


@dataclass(frozen=True, slots=True)
class RecallVocabulary:
    """The words of the recall checkpoint that a prompt may plant, from its recall.json.

    Attributes:
        haystack_ids: Ids of the words the haystack is made of.
        needle_ids: Ids of the words keys and values are made of.
        haystack_words: The haystack words, in the order of their ids.
        needle_words: The needle words, in the order of their ids.
        attention_chunk_size: Tokens in a chunk of the chunked-local layers; no planted pair may straddle a multiple.
        answer_words: How many words follow a key, unless asked otherwise.
    """

    haystack_ids: range
    needle_ids: range
    haystack_words: tuple[str, ...]
    needle_words: tuple[str, ...]
    attention_chunk_size: int
    answer_words: int


@dataclass(frozen=True, slots=True)
class Filler:
    """A piece of text that is one token wherever it follows a character that is not white space."""

    text: str
    token_id: int


class Tokenizer(ABC):
    """Text to token ids, as one server counts them.

    Attributes:
        name: Where it came from, for messages.
        backend: What encodes: `tiktoken`, `tokenizers` or `server`.
        reason: Why that backend, in one sentence.
        fingerprint: A hash of everything that decides the ids; keys of cached token indexes hold it.
        proof: Why counts add up at cuts.
        recall: Set for the recall checkpoint.
        special_strings: Strings the server would read as control tokens; never to occur in a text.
        apart: Pairs of characters between which a single space never stands in a text; see `farspan.prompts.cuts`.
    """

    name: str
    backend: str
    reason: str
    fingerprint: str
    proof: Proof
    recall: RecallVocabulary | None = None
    special_strings: tuple[str, ...] = ()
    apart: tuple[tuple[str, str], ...] = ()

    @abstractmethod
    def encode_request(self, text: str, *, chat: bool) -> TokenIds:
        """Return everything a server counts for a request.

        Args:
            text: The completion prompt, or the one user message.
            chat: Apply the chat template (with its generation prompt) rather than the completion API's BOS.

        Raises:
            InputError: There is no chat template, or the server does not answer.
        """

    @abstractmethod
    def encode_pieces(self, pieces: Sequence[str]) -> list[TokenIds]:
        """Return the ids each piece contributes where it stands in a text behind a cut: no BOS, no specials.

        Each piece begins with a space and a character that is not white space, and ends with one.
        """

    def clean(self, text: str) -> str:
        """Return the text as it may stand in a prompt: control strings broken up, no NUL, normalized as needed.

        A single space between two characters that must stay `apart` becomes a line break.
        """
        if "\0" in text:
            text = text.replace("\0", "")
        if self.holds_control(text):
            text = self._control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        for before, after in self.apart:
            text = re.sub(f"(?<={re.escape(before)}) (?={re.escape(after)})", "\n", text)
        return text

    def holds_control(self, text: str) -> bool:
        """Return whether a text holds a string the server would read as a control token."""
        if not any(start in text for start in self._control_starts):
            return False
        return self._control.search(text) is not None

    def byte_lengths(self, ids: TokenIds) -> NDArray[np.int64] | None:  # noqa: ARG002
        """Return how many bytes of text each id stands for, or None where that is not a property of the id."""
        return None

    def first_tokens(self, text: str, characters: Sequence[int], *, chat: bool) -> list[int]:
        """Return which token of a request is the first to hold any of the text from each of some characters on.

        Unless a backend knows better, that is where the ids of the text before stop being those of the whole, which
        may be a token early where a word is encoded otherwise because of what follows.

        Args:
            text: As for `encode_request`.
            characters: Positions in the text, none at its beginning.
            chat: As for `encode_request`.
        """
        whole = self.encode_request(text, chat=chat)
        found = []
        for character in characters:
            before = self.encode_request(text[:character], chat=chat)[: len(whole)]
            found.append(int(np.argmin(np.append(before == whole[: len(before)], False))))
        return found

    def encode_piece(self, piece: str) -> TokenIds:
        """Return the ids one piece contributes; see `encode_pieces`."""
        return self.encode_pieces([piece])[0]

    @cached_property
    def _control(self) -> re.Pattern[str]:
        return any_of(string for string in self.special_strings if len(string) > 1 and string.strip())

    @cached_property
    def _control_starts(self) -> frozenset[str]:
        """How control strings begin: looking for these few first is much faster than for all of them."""
        return frozenset(string[:2] for string in self.special_strings if len(string) > 1 and string.strip())

    @cached_property
    def fillers(self) -> tuple[Filler, ...]:
        """Pieces of exactly one token, at least two, all different.

        Raises:
            InputError: The vocabulary has no two such words.
        """
        words: Sequence[str] = self.recall.haystack_words[:64] if self.recall else _COMMON_WORDS
        found: dict[int, Filler] = {}
        for candidates in (words, [chr(c) for c in range(ord("a"), ord("z") + 1)] + list(".,;:-")):
            pieces = [f" {word}" for word in candidates]
            for piece, ids in zip(pieces, self.encode_pieces(pieces), strict=True):
                if len(ids) == 1:
                    found.setdefault(int(ids[0]), Filler(piece, int(ids[0])))
            if len(found) >= 2:
                return tuple(found.values())
        raise InputError(
            f"{self.name} has no two words of one token, so a prompt cannot be brought to an exact length",
            "use the tokenizer of the model that is served",
        )


def any_of(strings: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the strings, the longest first; none when there are none."""
    return re.compile("|".join(map(re.escape, sorted(strings, key=len, reverse=True))) or r"(?!)")


def as_ids(values: Any) -> TokenIds:
    """Return token ids as a one-dimensional int32 array."""
    return np.asarray(values, dtype=np.int32).reshape(-1)
