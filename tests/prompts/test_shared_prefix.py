"""Prompts that share a prefix: as long as asked for, alike to the token where it ends, and different from there on."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import InputError, UnsupportedError
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.shared_prefix import SharedPrefix
from farspan.prompts.tokenizer import Tokenizer

Load = Callable[[str], Tokenizer]

# What every prompt of these tokenizers begins with takes less.
LEAST = 120


def count_common(one: np.ndarray, other: np.ndarray) -> int:
    different = np.flatnonzero(one[: len(other)] != other[: len(one)])
    return int(different[0]) if len(different) else min(len(one), len(other))


@pytest.mark.parametrize("name", ["llama3", "llama4", "bytes-o200k", "unigram", "recall"])
@settings(max_examples=8)
@given(
    tokens=st.integers(700, 6000),
    share=st.floats(0.2, 0.9),
    seed=st.integers(0, 2**40),
    depth=st.floats(0, 1),
    chat=st.booleans(),
    members=st.integers(2, 4),
)
def test_a_group_shares_exactly_its_prefix(
    tokenizer: Load, name: str, tokens: int, share: float, seed: int, depth: float, chat: bool, members: int
) -> None:
    used = tokenizer(name)
    shared = SharedPrefix(min(max(LEAST, round(share * tokens)), tokens - 400), seed)
    prompts = [
        build_prompt(used, tokens=tokens, seed=seed + 1 + i, depth=depth, chat=chat, shared=shared)
        for i in range(members)
    ]
    ids = [prompt.token_ids for prompt in prompts]
    for prompt, own in zip(prompts, ids, strict=True):
        assert len(own) == tokens
        assert np.array_equal(used.encode_request(prompt.text, chat=chat), own)
        assert min(prompt.needle_positions) > shared.tokens
    for i in range(members):
        for k in range(i):
            assert count_common(ids[i], ids[k]) == shared.tokens
    elsewhere = build_prompt(
        used, tokens=tokens, seed=seed + 1, chat=chat, shared=SharedPrefix(shared.tokens, seed + 1)
    )
    assert count_common(elsewhere.token_ids, ids[0]) < LEAST


@pytest.mark.parametrize("task", ["summarise", "multi-key", "variable-tracking", "common-words"])
def test_every_task_lies_behind_the_prefix(tokenizer: Load, task: str) -> None:
    shared = SharedPrefix(1000, 5)
    one, other = (
        build_prompt(tokenizer("llama3"), tokens=4000, task=task, seed=seed, shared=shared) for seed in (6, 7)
    )
    assert count_common(one.token_ids, other.token_ids) == 1000
    assert all(position > 1000 for position in (*one.needle_positions, *other.needle_positions))


def test_a_prefix_that_cannot_be_is_refused(tokenizer: Load) -> None:
    for name in ("llama3", "recall"):
        with pytest.raises(InputError, match="shorter than the"):
            build_prompt(tokenizer(name), tokens=1000, shared=SharedPrefix(1, 0))
        with pytest.raises(InputError, match="fit"):
            build_prompt(tokenizer(name), tokens=1000, shared=SharedPrefix(999, 0))


def test_a_tokenizer_whose_counts_do_not_add_up_is_refused(tokenizer: Load) -> None:
    with pytest.raises(UnsupportedError, match="cannot be told"):
        build_prompt(tokenizer("no-splitting"), tokens=1000, shared=SharedPrefix(500, 0))
