"""Prompts for the recall checkpoint: haystack words, and needles it can copy back.

    <bos> w w w ... w Key V1 V2 ... Vn w w ... w Key        ->  V1 V2 ... Vn

The checkpoint is an induction head: after a key it says what followed that key before. So a key and its values are
words that occur nowhere else, and no two neighbours among them lie on two sides of a chunk border, where the
chunked-local layer that tells a token its predecessor cannot see it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farspan.errors import InputError
from farspan.prompts.parts import Part, TextPart, WordsPart, WordTable
from farspan.prompts.prompt import Prompt
from farspan.prompts.ragged import Ragged
from farspan.prompts.scoring import MatchKind, Scorer
from farspan.prompts.shared_prefix import SharedPrefix
from farspan.prompts.tokenizer import RecallVocabulary, Tokenizer, as_ids
from farspan.prompts.turn import Turn

# Words at the very beginning that differ from prompt to prompt, before which nothing is planted.
_NONCE_WORDS = 8

# Needles of a `multi-key` prompt, unless asked otherwise.
_NEEDLES = 8

# Steps through the first words so that neighbouring seeds never begin alike; coprime to every power of two.
_FIRST_WORD_STEP = 1237

RECALL_TASKS = ("needle", "multi-key")


@dataclass(frozen=True, slots=True)
class _Span:
    """The place of a needle: `start` is its key's index in the prompt."""

    start: int
    length: int


def build_recall_prompt(
    tokenizer: Tokenizer,
    *,
    tokens: int,
    task: str,
    depth: float,
    seed: int,
    chat: bool,
    output_tokens: int | None,
    count: int | None,
    shared: SharedPrefix | None = None,
    turn: Turn | None = None,
) -> Prompt:
    """Build a prompt for the recall checkpoint.

    Args:
        tokenizer: The checkpoint's; its `recall` is set.
        tokens: Exact length, BOS and template included.
        task: `needle`, or `multi-key`: several needles, one of which is asked for.
        depth: Where the needle asked for lies: 0 after the first words, 1 before the key at the end.
        seed: Decides all words.
        chat: The text is a user message.
        output_tokens: Values that follow the key; the checkpoint's own number when None.
        count: Needles of `multi-key`; 8 when None.
        shared: The tokens it begins with, which other prompts have too; every needle lies behind them.
        turn: The turn of a conversation that it is for: none of its needles' words is in another turn's needles.

    Raises:
        InputError: The task asks for more than an induction head can do, or the needles do not fit.
    """
    vocabulary = tokenizer.recall
    assert vocabulary is not None
    if task not in RECALL_TASKS:
        raise InputError(
            f"the recall checkpoint cannot do the task {task!r}, it only says what followed a key",
            f"use one of the tasks {', '.join(RECALL_TASKS)}",
        )
    needles = (count or _NEEDLES) if task == "multi-key" else 1
    values = output_tokens or vocabulary.answer_words
    words = list(vocabulary.needle_words)
    if needles * (values + 1) > len(words):
        raise InputError(
            f"{needles} needles of {values + 1} words need more than the {len(words)} needle words",
            f"ask for at most {len(words) // needles - 1} output tokens",
        )
    before = _tokens_before_text(tokenizer, chat=chat)
    if shared is not None:
        shared.check_least(before + 1)
    own = before if shared is None else shared.tokens
    nonce = min(_NONCE_WORDS, max(0, tokens - own - 1 - needles * (values + 1)))
    spans = _place(
        first=own + nonce,
        last=tokens - 1,
        length=values + 1,
        depths=_depths(depth, needles),
        chunk=vocabulary.attention_chunk_size,
    )
    if spans is None:
        least = own + 1 + needles * (values + 1)
        raise InputError(
            f"{needles} needles of {values + 1} tokens do not fit a prompt of {tokens} tokens",
            f"ask for more tokens (at least {least}) or fewer output tokens",
        )
    planted = np.array(
        _choose_needle_words(len(words), needles * (values + 1), seed, turn), dtype=np.int64
    ).reshape(needles, values + 1)
    target = 0
    chosen = _haystack(vocabulary, tokens - own, seed)
    if shared is not None:
        chosen = np.concatenate([_haystack(vocabulary, own - before, shared.seed), chosen])
    offset = len(vocabulary.haystack_words)
    for span, needle in zip(spans, planted, strict=True):
        chosen[span.start - before : span.start - before + span.length] = needle + offset
    chosen[-1] = planted[target, 0] + offset
    answer = " ".join(words[i] for i in planted[target, 1:])
    return Prompt(
        tokens=tokens,
        task=task,
        depth=depth,
        seed=seed,
        chat=chat,
        needle_positions=tuple(sorted(span.start for span in spans)),
        output_tokens=values,
        parts=_parts(tokenizer, vocabulary, chosen, chat=chat),
        scorer=Scorer(MatchKind.PREFIX, (answer,)),
    )


def _choose_needle_words(words: int, count: int, seed: int, turn: Turn | None) -> list[int]:
    """Choose different words for the needles of a prompt; for a turn, words that no other turn takes."""
    if turn is None:
        return random.Random(f"recall {seed}").sample(range(words), count)
    if (turn.number + 1) * count > words:
        raise InputError(
            f"turn {turn.number + 1} of a conversation has no words left: each takes {count} of {words}",
            f"send at most {words // count} turns, or ask for fewer output tokens",
        )
    shuffled = list(range(words))
    random.Random(f"recall conversation {turn.seed}").shuffle(shuffled)
    return shuffled[turn.number * count :][:count]


def _tokens_before_text(tokenizer: Tokenizer, *, chat: bool) -> int:
    """Return how many tokens the server puts before the text."""
    one, other = tokenizer.fillers[:2]
    ids = tokenizer.encode_request(one.text[1:] + other.text, chat=chat)
    if ids[-2:].tolist() != [one.token_id, other.token_id]:
        raise InputError(
            f"{tokenizer.name} adds tokens after the text, so a key cannot be the last token",
            "write the checkpoint again with this version of farspan",
        )
    return len(ids) - 2


def _depths(depth: float, needles: int) -> list[float]:
    """Return the depth of each needle: the one asked for, and the others spread evenly."""
    return [depth] + [(i + 0.5) / (needles - 1) for i in range(needles - 1)]


def _haystack(vocabulary: RecallVocabulary, words: int, seed: int) -> NDArray[np.uint16]:
    """Return random haystack words, as indices; the first differs between any 2,048 neighbouring seeds."""
    size = len(vocabulary.haystack_words)
    bits = np.random.PCG64(np.random.SeedSequence((1, seed % 2**64)))
    raw = bits.random_raw(-(-words // 4)).view(np.uint16)[:words].astype(np.uint32)
    chosen = ((raw * np.uint32(size)) >> np.uint32(16)).astype(np.uint16)
    chosen[0] = seed * _FIRST_WORD_STEP % size
    return chosen


def _place(*, first: int, last: int, length: int, depths: Sequence[float], chunk: int) -> list[_Span] | None:
    """Place needles at their depths without overlap and without a chunk border inside; None if they do not fit.

    Args:
        first: The first index a needle may take.
        last: The index after the last one it may take.
        length: Tokens in a needle.
        depths: Wanted depths; the first needle has its choice.
        chunk: Neighbours may not lie on two sides of a multiple of this.
    """
    spans: list[_Span] = []
    for depth in depths:
        wanted = first + round(depth * max(0, last - length - first))
        free = _nearest_free(wanted, spans, first=first, last=last, length=length, chunk=chunk)
        if free is None:
            return None
        spans.append(_Span(free, length))
    return spans


def _nearest_free(
    wanted: int, spans: Sequence[_Span], *, first: int, last: int, length: int, chunk: int
) -> int | None:
    """Return the start nearest to `wanted` that is free, by stepping over what is in the way, both ways."""
    found = []
    for forward in (True, False):
        start = wanted
        while first <= start <= last - length:
            border = (start + length - 1) // chunk * chunk
            taken = next((s for s in spans if s.start - length < start < s.start + s.length), None)
            if taken is not None:
                start = taken.start + taken.length if forward else taken.start - length
            elif start < border:
                start = border if forward else border - length
            else:
                found.append(start)
                break
    return min(found, key=lambda start: (abs(start - wanted), start), default=None)


def _parts(
    tokenizer: Tokenizer, vocabulary: RecallVocabulary, chosen: NDArray[np.uint16], *, chat: bool
) -> list[Part]:
    words = [*vocabulary.haystack_words, *vocabulary.needle_words]
    ids = as_ids([*vocabulary.haystack_ids, *vocabulary.needle_ids])
    table = WordTable(Ragged.of_strings([f" {word}" for word in words]), Ragged.of_arrays(list(ids[:, None])))
    first = words[int(chosen[0])]
    head = TextPart(tokenizer.encode_request(first, chat=chat), first.encode())
    return [head, WordsPart.of(table, chosen[1:])]
