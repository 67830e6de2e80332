"""Byte-level byte-pair encoding through tiktoken: the fast path, 25 MB of text a second and core."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tiktoken
from numpy.typing import NDArray

from farspan.errors import InputError
from farspan.models.chat_template import ChatTemplate
from farspan.prompts.cuts import PROVEN_PATTERNS, Proof
from farspan.prompts.tokenizer import TokenIds, Tokenizer, any_of, as_ids

# tiktoken searches each text for its special tokens; an encoding without any would match everywhere.
_PLACEHOLDER = "<|farspan-placeholder|>"


@dataclass(frozen=True)
class BytePairVocabulary:
    """Everything that decides the ids of a byte-level byte-pair tokenizer.

    Attributes:
        pattern: The pre-tokenizer's regular expression.
        ranks: Token bytes to merge rank, 0 to n - 1.
        ids: Token id of each rank, int32 [n]; None when rank and id are the same.
        specials: Control tokens by their string.
        before: Ids the completion API puts before a text (BOS).
        after: Ids it puts after it.
        composed: Text is brought to Unicode NFC first.
    """

    pattern: str
    ranks: dict[bytes, int]
    ids: NDArray[np.int32] | None
    specials: Mapping[str, int]
    before: tuple[int, ...]
    after: tuple[int, ...]
    composed: bool = False


class BytePairTokenizer(Tokenizer):
    """A byte-level byte-pair tokenizer encoded by tiktoken."""

    backend = "tiktoken"

    def __init__(
        self,
        vocabulary: BytePairVocabulary,
        *,
        name: str,
        reason: str,
        fingerprint: str,
        template: ChatTemplate | None,
    ) -> None:
        self.name = name
        self.reason = reason
        self.fingerprint = fingerprint
        self.proof = Proof.PATTERN if vocabulary.pattern in PROVEN_PATTERNS else Proof.CHECKED
        self.special_strings = tuple(vocabulary.specials)
        self.template = template
        self.vocabulary = vocabulary
        self._encoding = tiktoken.Encoding(
            "farspan",
            pat_str=vocabulary.pattern,
            mergeable_ranks=vocabulary.ranks,
            special_tokens={_PLACEHOLDER: max(vocabulary.ranks.values()) + 1},
        )

    def encode_ordinary(self, text: str) -> TokenIds:
        """Return the ids of a text in which nothing is a control token, in one call whatever its length."""
        if self.vocabulary.composed and not text.isascii():
            text = unicodedata.normalize("NFC", text)
        ranks = self._encoding.encode_to_numpy(text, allowed_special=set(), disallowed_special=())
        if self.vocabulary.ids is not None:
            return self.vocabulary.ids[ranks]
        return ranks.view(np.int32)

    def encode_pieces(self, pieces: Sequence[str]) -> list[TokenIds]:
        """Return the ids of each piece; one thread, the interpreter's lock released."""
        if self.proof is Proof.CHECKED or not pieces:
            return [self.encode_ordinary(piece) for piece in pieces]
        # Pieces meet at cuts, so they can be encoded in one call, and byte lengths tell where each one's ids end.
        ids = self.encode_ordinary("".join(pieces))
        sizes = np.fromiter((len(piece.encode()) for piece in pieces), np.int64, len(pieces))
        ends = np.searchsorted(np.cumsum(self._lengths[ids]), np.cumsum(sizes)) + 1
        return np.split(ids, ends[:-1])

    def encode_request(self, text: str, *, chat: bool) -> TokenIds:
        """Return everything the server counts; the text itself is encoded in one call."""
        if self.holds_control(text):
            raise InputError("the text holds a control token of the model", "remove it from the text")
        vocabulary = self.vocabulary
        if not chat:
            return np.concatenate(
                [as_ids(vocabulary.before), self.encode_ordinary(text), as_ids(vocabulary.after)]
            )
        if self.template is None:
            raise InputError(
                f"{self.name} has no chat template", "give the folder that has one, or build without --chat"
            )
        before, after = self.template.around
        # Control tokens split a text before anything else does, so what lies between the last one before the
        # message and the first one after it is encoded as one text.
        inside = max((match.end() for match in self._specials(before)), default=0)
        outside = min((match.start() for match in self._specials(after)), default=len(after))
        return np.concatenate(
            [
                *self._encode_mixed(before[:inside]),
                self.encode_ordinary(before[inside:] + text + after[:outside]),
                *self._encode_mixed(after[outside:]),
            ]
        )

    def byte_lengths(self, ids: TokenIds) -> NDArray[np.int64] | None:
        """Return the length in bytes of each id's text."""
        return self._lengths[ids]

    def clean(self, text: str) -> str:
        """Also bring the text to the Unicode form the tokenizer would."""
        if self.vocabulary.composed and not text.isascii():
            text = unicodedata.normalize("NFC", text)
        return super().clean(text)

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        ranks = self.vocabulary.ranks
        rank = np.fromiter(ranks.values(), np.int64, len(ranks))
        length = np.fromiter(map(len, ranks), np.int64, len(ranks))
        ids = rank if self.vocabulary.ids is None else self.vocabulary.ids[rank]
        table = np.zeros(int(ids.max()) + 1, np.int64)
        table[ids] = length
        return table

    def _specials(self, text: str) -> Iterator[re.Match[str]]:
        """Yield the control tokens of a template's text."""
        return any_of(string for string in self.vocabulary.specials if string in text).finditer(text)

    def _encode_mixed(self, text: str) -> list[TokenIds]:
        """Encode a template's text: control tokens and what stands between them."""
        parts: list[TokenIds] = []
        position = 0
        for match in self._specials(text):
            if match.start() > position:
                parts.append(self.encode_ordinary(text[position : match.start()]))
            parts.append(as_ids(self.vocabulary.specials[match[0]]))
            position = match.end()
        if position < len(text):
            parts.append(self.encode_ordinary(text[position:]))
        return parts
