"""Encoding a finished prompt again, as a whole, and comparing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from farspan.errors import FarspanError, InputError
from farspan.prompts.parts import TextPart
from farspan.prompts.prompt import Prompt
from farspan.prompts.tokenizer import Tokenizer

# How often a prompt is built, and how often its filling is tried, before giving up.
_BUILDS = 8

_MOST_FILLED = 64
_NEAR_CHARACTERS = 2000


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
        InputError: No filling leads to that length.
    """
    budget = tokens
    for _ in range(_BUILDS):
        prompt = build(budget)
        if prompt is None:
            return None
        closing = b"".join(prompt.parts[-1].iter_text()).decode()
        before = prompt.text.removesuffix(closing)
        missing = tokens - len(tokenizer.encode_request(before + closing, chat=prompt.chat))
        if 0 <= missing <= _MOST_FILLED:
            settled = _fill(prompt, tokenizer, before, closing, tokens)
            if settled is not None:
                return settled
        # A little short is right: words can be added, but not taken away.
        budget += missing - min(_MOST_FILLED // 4, tokens // 16)
    raise InputError(
        f"no prompt of exactly {tokens:,} tokens was found with {tokenizer.name}",
        "try another length or seed",
    )


def _fill(prompt: Prompt, tokenizer: Tokenizer, before: str, closing: str, tokens: int) -> Prompt | None:
    """Add words before the closing until the whole has the right length; None when no words do.

    What a word adds is measured on the last few thousand characters; the whole is encoded to confirm it.
    """
    choice = random.Random(f"settle {prompt.seed}")
    filling = ""
    for _ in range(_BUILDS):
        ids = tokenizer.encode_request(before + filling + closing, chat=prompt.chat)
        missing = tokens - len(ids)
        if missing == 0:
            text = before + filling + closing
            positions = tokenizer.first_tokens(text, _planted_at(prompt), chat=prompt.chat)
            return replace(prompt, parts=[TextPart(ids, text.encode())], needle_positions=tuple(positions))
        if missing < 0:
            return None
        near = (before + filling)[-_NEAR_CHARACTERS:]
        start = len(tokenizer.encode_request(near + closing, chat=prompt.chat))
        added = ""
        for _ in range(_MOST_FILLED * 4):
            longer = added + choice.choice(tokenizer.fillers).text
            more = len(tokenizer.encode_request(near + longer + closing, chat=prompt.chat)) - start
            if more <= missing:
                added = longer
            if more == missing:
                break
        filling += added
    return None


def _planted_at(prompt: Prompt) -> list[int]:
    """Return at which characters of the text planted pieces begin."""
    found = []
    token = characters = 0
    for part in prompt.parts:
        for position in prompt.needle_positions:
            if token <= position < token + part.tokens:
                found.append(characters + len(part.text_before(position - token).decode()))
        token += part.tokens
        characters += sum(len(str(chunk, "utf-8")) for chunk in part.iter_text())
    return found
