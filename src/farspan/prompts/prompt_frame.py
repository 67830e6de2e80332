"""The ids a server puts around a text: BOS, a chat template, whatever merges with the text's first and last words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from farspan.errors import InputError
from farspan.prompts.cuts import Proof
from farspan.prompts.tokenizer import TokenIds, Tokenizer


@dataclass(frozen=True, slots=True)
class PromptFrame:
    """The ids before and after the middle of a prompt.

    Attributes:
        head: BOS or template, and the opening.
        tail: The closing, and what the template adds.
    """

    head: TokenIds
    tail: TokenIds


def encode_frame(tokenizer: Tokenizer, opening: str, closing: str, *, chat: bool) -> PromptFrame:
    """Encode a prompt's beginning and end as the server would, with whatever will stand between them left out.

    Two requests are encoded that differ in one known token between opening and closing; where their ids differ, the
    head ends and the tail begins. So the template and the text's ends are encoded together, and nothing is assumed
    about how they meet.

    Args:
        tokenizer: The server's tokenizer.
        opening: The text's beginning; ends in a character that is not white space.
        closing: The text's end; empty, or begins with a space and a character that is not white space.
        chat: With the chat template.

    Raises:
        InputError: The tokenizer does not put the token where it stands, so nothing can be counted on.
    """
    one, other = tokenizer.fillers[:2]
    first = tokenizer.encode_request(opening + one.text + closing, chat=chat)
    second = tokenizer.encode_request(opening + other.text + closing, chat=chat)
    different = np.flatnonzero(first != second) if len(first) == len(second) else np.zeros(0, np.int64)
    if len(different) != 1 or first[different[0]] != one.token_id:
        if tokenizer.proof is Proof.CHECKED:
            # The finished prompt is encoded as a whole anyway; until then, this is close.
            return PromptFrame(first[: len(first) // 2], first[len(first) // 2 + 1 :])
        raise InputError(
            f"{tokenizer.name} encodes a word differently depending on what surrounds it",
            "build the prompt as text with another tokenizer of the same model",
        )
    position = int(different[0])
    return PromptFrame(first[:position], first[position + 1 :])
