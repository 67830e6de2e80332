"""Text to tokens and back, for the built-in server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from farspan.errors import CheckpointError, InputError
from farspan.models.chat_template import read_chat_template


class ChatTokenizer:
    """A checkpoint's tokenizer.json and chat template.

    Raises:
        CheckpointError: The folder has no tokenizer.json, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"{folder} has no tokenizer.json", "the built-in engine reads Hugging Face fast tokenizers"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in Rust is not an Exception
            said = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{path} cannot be read: {said}") from error
        self._template = read_chat_template(folder)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> NDArray[np.int32]:
        """Return the tokens of a text."""
        return np.asarray(
            self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids, dtype=np.int32
        )

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """Return the text of a conversation, special tokens included, up to where the assistant's answer begins.

        Raises:
            InputError: There is no chat template, or it refuses the messages.
        """
        if self._template is None:
            raise InputError("this checkpoint has no chat template", "use /v1/completions")
        return self._template.render(messages)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))


class StreamDecoder:
    """Turns tokens that arrive one by one into pieces of text that add up to the text of all of them.

    A piece is held back while it ends in an unfinished character. Only a short tail is decoded again each time, so the
    cost of a token does not grow with the answer.
    """

    _TAIL = 8
    # A character has at most four bytes, so what more tokens than these have not finished is none.
    _LONGEST_CHARACTER = 8

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._read_from = 0
        self._sent_to = 0

    def push(self, token_id: int) -> str:
        """Add a token and return the text that is now certain, possibly none."""
        self._token_ids.append(token_id)
        return self._advance(final=False)

    def finish(self) -> str:
        """Return what was held back."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        sent = self._tokenizer.decode(self._token_ids[self._read_from : self._sent_to])
        whole = self._tokenizer.decode(self._token_ids[self._read_from :])
        unfinished = whole.endswith("\ufffd") or len(whole) < len(sent)
        if unfinished and not final and len(self._token_ids) - self._sent_to <= self._LONGEST_CHARACTER:
            return ""
        self._read_from = max(self._read_from, self._sent_to - self._TAIL)
        self._sent_to = len(self._token_ids)
        return whole[len(sent) :]
