"""The property everything rests on: a prompt has exactly the tokens asked for, as a server counts them."""

import os
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from farspan.errors import InputError
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.tasks import TASKS
from farspan.prompts.tokenizer import Tokenizer
from farspan.prompts.verify import verify_prompt

NATURAL = (
    "llama3",
    "llama4",
    "bytes-o200k",
    "bytes-nfc",
    "bytes-gpt2",
    "unigram",
    "sentencepiece",
    "no-splitting",
)

Load = Callable[[str], Tokenizer]

FAST = settings(max_examples=60)


def check(tokenizer: Tokenizer, **options: object) -> None:
    prompt = build_prompt(tokenizer, **options)  # type: ignore[arg-type]
    ids = prompt.token_ids
    assert ids.dtype == np.int32
    assert ids.shape == (options["tokens"],)
    assert np.array_equal(tokenizer.encode_request(prompt.text, chat=prompt.chat), ids)


@pytest.mark.parametrize("name", ["llama3", "llama4", "bytes-o200k", "bytes-nfc"])
@FAST
@given(tokens=st.integers(16, 9000), seed=st.integers(0, 2**40), depth=st.floats(0, 1), chat=st.booleans())
@example(tokens=16, seed=0, depth=0.5, chat=False)
@example(tokens=16, seed=1, depth=0.5, chat=True)
def test_any_length_and_seed(
    tokenizer: Load, name: str, tokens: int, seed: int, depth: float, chat: bool
) -> None:
    check(tokenizer(name), tokens=tokens, seed=seed, depth=depth, chat=chat, task="summarise")


@pytest.mark.parametrize("name", ["bytes-gpt2", "unigram", "sentencepiece"])
@settings(FAST, max_examples=20)
@given(tokens=st.integers(32, 4000), seed=st.integers(0, 2**40), chat=st.booleans())
def test_any_length_and_seed_through_tokenizers(
    tokenizer: Load, name: str, tokens: int, seed: int, chat: bool
) -> None:
    check(tokenizer(name), tokens=tokens, seed=seed, chat=chat, task="summarise")


@settings(FAST, max_examples=20)
@given(tokens=st.integers(40, 3000), seed=st.integers(0, 2**40), chat=st.booleans())
def test_a_tokenizer_without_a_proof_is_settled_by_encoding_the_whole(
    tokenizer: Load, tokens: int, seed: int, chat: bool
) -> None:
    assert tokenizer("no-splitting").proof == "checked"
    check(tokenizer("no-splitting"), tokens=tokens, seed=seed, chat=chat, task="summarise")


@FAST
@given(tokens=st.integers(20, 40_000), seed=st.integers(0, 2**40), depth=st.floats(0, 1), chat=st.booleans())
@example(tokens=8192, seed=0, depth=1.0, chat=False)
@example(tokens=8193, seed=0, depth=1.0, chat=True)
def test_any_length_and_seed_for_the_recall_checkpoint(
    tokenizer: Load, tokens: int, seed: int, depth: float, chat: bool
) -> None:
    check(tokenizer("recall"), tokens=tokens, seed=seed, depth=depth, chat=chat)


@pytest.mark.parametrize("name", NATURAL)
@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("chat", [False, True])
def test_every_task_is_exact(tokenizer: Load, name: str, task: str, chat: bool) -> None:
    check(tokenizer(name), tokens=6001, task=task, seed=11, chat=chat)


@pytest.mark.parametrize(
    ("tokens", "task"), [(1_000_003, "needle"), (999_999, "common-words"), (12_000_000, "needle")]
)
def test_long_prompts_are_exact(tokenizer: Load, tokens: int, task: str) -> None:
    check(tokenizer("llama4"), tokens=tokens, task=task, depth=0.3, seed=5, chat=True)


def test_a_long_recall_prompt_is_exact(tokenizer: Load) -> None:
    check(tokenizer("recall"), tokens=2_000_000, depth=0.9, seed=5)


def test_a_long_prompt_through_tokenizers_is_exact(tokenizer: Load) -> None:
    # Long enough that the whole is encoded in pieces.
    check(tokenizer("sentencepiece"), tokens=1_200_000, seed=5, chat=True)


@pytest.mark.parametrize("name", NATURAL)
def test_too_short_says_how_long_it_must_be(tokenizer: Load, name: str) -> None:
    with pytest.raises(InputError, match=r"takes at least (\d+)") as error:
        build_prompt(tokenizer(name), tokens=100, task="multi-needle", count=20)
    assert "ask for more tokens" in str(error.value)


def test_the_least_length_named_is_enough_and_no_more(tokenizer: Load) -> None:
    llama = tokenizer("llama4")
    with pytest.raises(InputError) as error:
        build_prompt(llama, tokens=50, task="chain", chat=True)
    least = int("".join(filter(str.isdigit, error.value.message.split("at least")[1])))
    check(llama, tokens=least, task="chain", chat=True)
    with pytest.raises(InputError):
        build_prompt(llama, tokens=least - 1, task="chain", chat=True)


def test_a_needle_prompt_of_sixteen_tokens(tokenizer: Load) -> None:
    prompt = build_prompt(tokenizer("llama4"), tokens=16)
    verify_prompt(prompt, tokenizer("llama4"))
    word = prompt.text.split()[-2]
    assert f"{word} is {prompt.answer}." in prompt.text


def test_prompts_do_not_depend_on_what_is_cached(
    tokenizer: Load, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"tokens": 3_000_000, "seed": 9, "task": "needle"}
    warm = build_prompt(tokenizer("llama3"), **options).token_ids  # type: ignore[arg-type]
    monkeypatch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path))
    cold = build_prompt(tokenizer("llama3"), **options).token_ids  # type: ignore[arg-type]
    assert np.array_equal(warm, cold)
