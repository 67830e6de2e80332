from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.errors import InputError
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.tokenizer import Tokenizer

Load = Callable[[str], Tokenizer]


@settings(max_examples=80)
@given(
    tokens=st.integers(100, 40_000),
    seed=st.integers(0, 2**40),
    depth=st.floats(0, 1),
    chat=st.booleans(),
    values=st.integers(1, 60),
)
def test_needles_can_be_recalled(
    tokenizer: Load, tokens: int, seed: int, depth: float, chat: bool, values: int
) -> None:
    recall = tokenizer("recall")
    prompt = build_prompt(recall, tokens=tokens, seed=seed, depth=depth, chat=chat, output_tokens=values)
    assert recall.recall
    ids = prompt.token_ids
    (start,) = prompt.needle_positions
    needle = ids[start : start + values + 1]
    words = dict(zip(recall.recall.needle_ids, recall.recall.needle_words, strict=True))
    assert " ".join(words[token] for token in needle[1:]) == prompt.answer
    # The key stands once more, at the very end; every value stands once.
    assert ids[-1] == needle[0]
    planted = ids[np.isin(ids, list(recall.recall.needle_ids))]
    assert sorted(planted) == sorted([*needle, needle[0]])
    assert len(set(needle)) == values + 1
    # No two neighbours lie on two sides of a chunk border.
    assert start // 8192 == (start + values) // 8192
    room = tokens - len(needle)
    assert abs(start - depth * room) <= 20 + values + 1


def test_recall_answers_follow_the_key(tokenizer: Load) -> None:
    prompt = build_prompt(tokenizer("recall"), tokens=5000, seed=1)
    key = prompt.text.split()[-1]
    assert prompt.text.split(f" {key} ")[1].startswith(prompt.answer)
    assert prompt.score(f" {prompt.answer} bado") == 1
    assert prompt.score("bado " + prompt.answer) == 0
    assert prompt.output_tokens == 8


def test_one_of_several_needles_is_asked_for(tokenizer: Load) -> None:
    prompt = build_prompt(tokenizer("recall"), tokens=30_000, task="multi-key", count=50, depth=0.25, seed=1)
    assert len(prompt.needle_positions) == 50
    gaps = np.diff(prompt.needle_positions)
    assert gaps.min() >= 9
    asked = int(np.flatnonzero(prompt.token_ids == prompt.token_ids[-1])[0])
    assert asked in prompt.needle_positions
    assert asked == pytest.approx(7500, abs=20)


def test_recall_refuses_what_it_cannot_do(tokenizer: Load) -> None:
    recall = tokenizer("recall")
    with pytest.raises(InputError, match="only says what followed a key"):
        build_prompt(recall, tokens=1000, task="chain")
    with pytest.raises(InputError, match="do not fit"):
        build_prompt(recall, tokens=9)
    with pytest.raises(InputError, match="at most 2031 output tokens"):
        build_prompt(recall, tokens=10_000, output_tokens=2032)
    with pytest.raises(InputError, match="at most"):
        build_prompt(recall, tokens=10_000, task="multi-key", count=5000)


def test_prompts_differ_from_their_first_word(tokenizer: Load) -> None:
    starts = {
        int(build_prompt(tokenizer("recall"), tokens=64, seed=seed).token_ids[1]) for seed in range(200)
    }
    assert len(starts) == 200
