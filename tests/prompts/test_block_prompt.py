"""Prompts of numbered blocks: exact, and alike for as many blocks as their numbers are."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import InputError, UnsupportedError
from farspan.prompts.block_prompt import build_block_prompt
from farspan.prompts.tokenizer import Tokenizer

Load = Callable[[str], Tokenizer]
BLOCK = 64


def build(tokenizer: Tokenizer, tokens: int, blocks: list[int], seed: int = 1) -> np.ndarray:
    prompt = build_block_prompt(
        tokenizer, tokens=tokens, blocks=blocks, block_tokens=BLOCK, seed=seed, output_tokens=4
    )
    ids = prompt.token_ids
    assert len(ids) == tokens
    assert np.array_equal(tokenizer.encode_request(prompt.text, chat=False), ids)
    assert prompt.answer == ""
    return ids


@pytest.mark.parametrize("name", ["llama3", "llama4", "bytes-o200k", "unigram", "sentencepiece", "recall"])
@settings(max_examples=15)
@given(
    shared=st.lists(st.integers(0, 2**63 - 1), max_size=4),
    own=st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=2, unique=True),
    cut=st.integers(0, BLOCK - 16),
    seed=st.integers(0, 2**40),
)
def test_what_is_shared_is_shared_to_the_token(
    tokenizer: Load, name: str, shared: list[int], own: list[int], cut: int, seed: int
) -> None:
    tokens = BLOCK * (len(shared) + 1)
    one = build(tokenizer(name), tokens, [*shared, own[0]], seed)
    other = build(tokenizer(name), tokens - cut, [*shared, own[1]], seed)
    same = build(tokenizer(name), tokens - cut, [*shared, own[0]], seed)
    assert np.array_equal(same, one[: tokens - cut])
    different = np.flatnonzero(one[: tokens - cut] != other)
    assert BLOCK * len(shared) <= different[0] < BLOCK * len(shared) + 16


def test_what_cannot_be_built_is_refused(tokenizer: Load) -> None:
    with pytest.raises(InputError, match="do not make"):
        build(tokenizer("llama3"), BLOCK + 1, [1])
    with pytest.raises(InputError, match="at least"):
        build(tokenizer("llama3"), 1, [1])
    with pytest.raises(UnsupportedError):
        build(tokenizer("no-splitting"), BLOCK, [1])
