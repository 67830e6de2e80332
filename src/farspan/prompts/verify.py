"""Encoding a finished prompt again, as a whole, and comparing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from farspan.errors import FarspanError, InputError
from farspan.prompts.frame import encode_frame
from farspan.prompts.parts import TextPart
from farspan.prompts.prompt import Prompt
from farspan.prompts.tokenizer import Tokenizer

_ATTEMPTS = 16


class InexactPromptError(FarspanError):
    """A prompt's text, encoded as a whole, does not give the ids it was built from."""


def verify_prompt(prompt: Prompt, tokenizer: Tokenizer) -> None:
    """Encode the prompt's text as the server would, and require its ids and its length.

    Args:
        prompt: Any prompt.
        tokenizer: The one it was built with, or another that must agree, such as the server's own.

    Raises:
        InexactPromptError: They differ.
    """
    counted = tokenizer.encode_request(prompt.text, chat=prompt.chat)
    if len(counted) != prompt.tokens:
        raise InexactPromptError(
            f"{tokenizer.name} counts {len(counted):,} tokens where the prompt has {prompt.tokens:,}",
            "build the prompt with the tokenizer of the server",
        )
    different = np.flatnonzero(counted != prompt.token_ids)
    if len(different):
        raise InexactPromptError(
            f"{tokenizer.name} gives other ids than the prompt has, first at token {different[0]:,}",
            "build the prompt with the tokenizer of the server",
        )


def settle(build: Callable[[int], Prompt | None], tokenizer: Tokenizer, tokens: int) -> Prompt | None:
    """Build a prompt with a tokenizer whose counts are not known to add up: encode it whole, and adjust.

    Args:
        build: Builds a prompt whose counts add up to its argument; None when it does not fit.
        tokenizer: Its `encode_request` has the last word.
        tokens: The length the whole must have.

    Raises:
        InputError: No length given to `build` leads to the one asked for.
    """
    budget = tokens
    for _ in range(_ATTEMPTS):
        prompt = build(budget)
        if prompt is None:
            return None
        text = prompt.text
        ids = tokenizer.encode_request(text, chat=prompt.chat)
        if len(ids) == tokens:
            positions = _positions(prompt, tokenizer)
            return replace(prompt, parts=[TextPart(ids, text.encode())], needle_positions=positions)
        budget += tokens - len(ids)
    raise InputError(
        f"no prompt of exactly {tokens:,} tokens was found with {tokenizer.name}",
        "try another length or seed",
    )


def _positions(prompt: Prompt, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return where planted pieces begin once the prompt is encoded as a whole."""
    found = []
    token = 0
    before = b""
    for part in prompt.parts:
        if token in prompt.needle_positions:
            found.append(len(encode_frame(tokenizer, before.decode(), "", chat=prompt.chat).head))
        token += part.tokens
        before += b"".join(part.iter_text())
    return tuple(found)
