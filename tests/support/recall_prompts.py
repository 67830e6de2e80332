"""Needle prompts for the recall checkpoint, made by hand so that engine tests depend on no prompt builder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farspan.models.probe import vocabulary

WORDS = vocabulary()


def recall_prompt(
    tokens: int, depth: float, *, seed: int = 0, answer_words: int = 4, chunk: int = 8192
) -> tuple[NDArray[np.int32], list[int]]:
    """Return a prompt of `tokens` tokens that ends in a key planted at `depth`, and the tokens that followed it."""
    random = np.random.default_rng([seed, tokens])
    ids = random.integers(WORDS.haystack_ids.start, WORDS.haystack_ids.stop, tokens).astype(np.int32)
    ids[0] = WORDS.bos_token_id
    needle = random.choice(np.asarray(WORDS.needle_ids), answer_words + 1, replace=False)
    position = 1 + int(depth * (tokens - answer_words - 3))
    if position // chunk != (position + answer_words) // chunk:
        position = (position // chunk + 1) * chunk
        if position + answer_words > tokens - 2:
            position -= answer_words + 1
    ids[position : position + answer_words + 1] = needle
    ids[-1] = needle[0]
    return ids, needle[1:].tolist()
