"""tokenizer.json: through tiktoken where that is proven to give the same ids, else through `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import tokenizers

from farspan.errors import InputError
from farspan.models.chat_template import ChatTemplate, read_chat_template
from farspan.prompts.backends.bytelevel import load_byte_level
from farspan.prompts.backends.open_file import open_tokenizer
from farspan.prompts.backends.splitting import additivity_of
from farspan.prompts.corpus import split_pieces
from farspan.prompts.cuts import Proof
from farspan.prompts.tokenizer import RecallVocabulary, TokenIds, Tokenizer, as_ids

# Stands before each piece, so that what a tokenizer does to the start of a text does not happen to the piece.
_GUARD = "a"

# Above this a text is encoded in pieces: `tokenizers` takes about 130 bytes of memory for each byte of one text.
_WHOLE_CHARACTERS = 4_000_000

_PIECES_AT_ONCE = 64


def load_tokenizer_json(path: Path) -> Tokenizer:
    """Load a tokenizer.json; chat template, recall.json and special tokens come from its folder.

    Raises:
        InputError: The file is not a tokenizer.
    """
    content = path.read_bytes()

    @cache
    def read_recipe() -> Mapping[str, Any]:
        fix = "give the folder of the model that is served"
        try:
            recipe = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{path} is not JSON ({error})", fix) from error
        if not isinstance(recipe, dict) or not isinstance(recipe.get("model"), dict):
            raise InputError(f"{path} is not a tokenizer.json", fix)
        return recipe

    template = read_chat_template(path.parent)
    fingerprint = blake2b(content, digest_size=16).hexdigest()
    fast = load_byte_level(path, read_recipe, fingerprint, template)
    if isinstance(fast, Tokenizer):
        return fast
    return HuggingFaceTokenizer(path, read_recipe(), reason=fast, fingerprint=fingerprint, template=template)


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer.json run by the `tokenizers` library, a batch of pieces at a time."""

    backend = "tokenizers"

    def __init__(
        self,
        path: Path,
        recipe: Mapping[str, Any],
        *,
        reason: str,
        fingerprint: str,
        template: ChatTemplate | None,
    ) -> None:
        self.name = str(path)
        self.reason = reason
        self.fingerprint = fingerprint
        self.template = template
        self._tokenizer = open_tokenizer(path)
        additivity = additivity_of(recipe)
        self.proof = additivity.proof
        self.apart = additivity.apart
        self.special_strings = tuple(token["content"] for token in recipe.get("added_tokens") or ())
        self.recall = _read_recall(path.parent / "recall.json", self._tokenizer)
        self._guard = len(self._tokenizer.encode(_GUARD, add_special_tokens=False).ids)

    def encode_request(self, text: str, *, chat: bool) -> TokenIds:
        """Return everything the server counts; a long text is encoded in pieces where that is proven to be the same."""
        if len(text) > _WHOLE_CHARACTERS and self.proof is not Proof.CHECKED:
            return self._encode_long(text, chat=chat)
        return as_ids(self._encode_whole(text, chat=chat).ids)

    def first_tokens(self, text: str, characters: Sequence[int], *, chat: bool) -> list[int]:
        """Return it as `tokenizers` says it, to the token."""
        whole = self._encode_whole(text, chat=chat)
        shift = len(self._around(chat=chat)[0])
        found = []
        for character in characters:
            # White space may belong to no token.
            tokens = (whole.char_to_token(shift + i) for i in range(character, len(text)))
            found.append(next(token for token in tokens if token is not None))
        return found

    def _encode_whole(self, text: str, *, chat: bool) -> tokenizers.Encoding:
        before, after = self._around(chat=chat)
        return self._tokenizer.encode(before + text + after, add_special_tokens=not chat)

    def _around(self, *, chat: bool) -> tuple[str, str]:
        if not chat:
            return "", ""
        if self.template is None:
            raise InputError(
                f"{self.name} has no chat template", "give the folder that has one, or build without --chat"
            )
        return self.template.around

    def encode_pieces(self, pieces: Sequence[str]) -> list[TokenIds]:
        """Return the ids of each piece, encoded behind a guard word whose ids are dropped."""
        found: list[TokenIds] = []
        for start in range(0, len(pieces), _PIECES_AT_ONCE):
            batch = [_GUARD + piece for piece in pieces[start : start + _PIECES_AT_ONCE]]
            encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            found += [as_ids(encoding.ids[self._guard :]) for encoding in encodings]
        return found

    def _encode_long(self, text: str, *, chat: bool) -> TokenIds:
        from farspan.prompts.prompt_frame import encode_frame

        opening, *middle = split_exactly(text)
        frame = encode_frame(self, opening, middle[-1], chat=chat)
        return np.concatenate([frame.head, *self.encode_pieces(middle[:-1]), frame.tail])


def split_exactly(text: str) -> list[str]:
    """Split a text that has cuts throughout into pieces that give it back when joined.

    Raises:
        InputError: The text has a long stretch without a cut.
    """
    start = len(text) - len(text.lstrip())
    pieces = split_pieces(text)
    pieces[0] = text[:start] + pieces[0][1:]
    if "".join(pieces) != text:
        raise InputError(
            "the text has a stretch of more than 1,024 characters without a single space between words",
            "use other text",
        )
    return pieces


def _read_recall(path: Path, tokenizer: tokenizers.Tokenizer) -> RecallVocabulary | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        haystack, needle = range(*content["haystack_ids"]), range(*content["needle_ids"])
        words = {i: tokenizer.id_to_token(i) for i in (*haystack, *needle)}
        if None in words.values():
            raise ValueError("it names ids the tokenizer does not have")
        return RecallVocabulary(
            haystack_ids=haystack,
            needle_ids=needle,
            haystack_words=tuple(str(words[i]) for i in haystack),
            needle_words=tuple(str(words[i]) for i in needle),
            attention_chunk_size=int(content["attention_chunk_size"]),
            answer_words=int(content["answer_words"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error})", "write the recall checkpoint again") from error
