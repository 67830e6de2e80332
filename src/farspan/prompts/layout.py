"""Laying out one prompt: frame, runs of text, planted pieces, and the words that make the length exact."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from farspan.prompts.corpus_reader import CorpusReader
from farspan.prompts.index import CorpusIndex
from farspan.prompts.parts import Part, TextPart
from farspan.prompts.prompt_frame import encode_frame
from farspan.prompts.shared_prefix import SharedPrefix, lay_out_filling, lay_out_shared
from farspan.prompts.tasks import Task
from farspan.prompts.tokenizer import Tokenizer

# How much earlier than at its depth something may be planted so that it follows a whole sentence: this many tokens,
# and at most this share of the text.
_SLACK_TOKENS = 48
_SLACK_SHARE = 1 / 64

# The first three digits of the nonce, one token in most vocabularies, step through 900 values by a number coprime to
# it, so that the prompts of 900 neighbouring seeds all differ in their first token.
_FIRST_DIGITS = 900
_FIRST_DIGITS_STEP = 617


@dataclass(frozen=True, slots=True)
class PromptBody:
    """All parts of a prompt.

    Attributes:
        parts: In order; their tokens add up to the length asked for.
        positions: Index of the first token of everything planted, ascending.
        corpus_passes: How often it goes through its corpus: above 1 the text is repeated; 0 where it does not end.
    """

    parts: Sequence[Part]
    positions: tuple[int, ...]
    corpus_passes: float = 0.0


def lay_out(
    index: CorpusIndex, task: Task, *, tokens: int, seed: int, chat: bool, shared: SharedPrefix | None = None
) -> PromptBody | None:
    """Lay out a prompt of exactly `tokens` tokens; None when the task does not fit.

    Args:
        index: The corpus, as the prompt's tokenizer sees it.
        task: What is planted and asked.
        tokens: Exact length.
        seed: Decides nonce, place in the corpus and filling words.
        chat: With the chat template.
        shared: The tokens it begins with, which other prompts have too; the task lies behind them.

    Raises:
        InputError: The shared prefix is too short to hold the prompt's beginning.
    """
    tokenizer = index.tokenizer
    opening = _opening(task, seed if shared is None else shared.seed)
    frame = encode_frame(tokenizer, opening, task.closing, chat=chat)
    head = TextPart(frame.head, opening.encode())
    tail = TextPart(frame.tail, task.closing.encode())
    common = [] if shared is None else lay_out_shared(index, shared, head.tokens, seed)
    before = head.tokens + sum(part.tokens for part in common)
    room = tokens - before - tail.tokens
    if room < 0:
        return None
    if task.words is not None:
        listed = task.words.lay_out(tokenizer, room, seed)
        if listed is None:
            return None
        middle: list[Part] = [listed.part]
        positions = [before + first for first in listed.first]
    else:
        planted = _plant(index, task, room, seed)
        if planted is None:
            return None
        middle, positions = planted
        positions = [before + position for position in positions]
    missing = room - sum(part.tokens for part in middle)
    read = sum(part.tokens for part in (*common, *(() if task.words else middle)))
    return PromptBody(
        [head, *common, *middle, *lay_out_filling(tokenizer, missing, seed), tail],
        tuple(positions),
        index.passes(read) if read else 0.0,
    )


def least_tokens(tokenizer: Tokenizer, task: Task, *, seed: int, chat: bool) -> int:
    """Return the length of a prompt that has nothing but what the task needs."""
    frame = encode_frame(tokenizer, _opening(task, seed), task.closing, chat=chat)
    planted = tokenizer.encode_pieces([item.text for item in task.planted])
    least = len(frame.head) + len(frame.tail) + sum(map(len, planted))
    return least + (task.words.least_tokens(tokenizer) if task.words else 0)


def head_tokens(tokenizer: Tokenizer, task: Task, *, seed: int, chat: bool) -> int:
    """Return the tokens of a prompt's beginning: BOS or template, nonce and introduction."""
    return len(encode_frame(tokenizer, _opening(task, seed), task.closing, chat=chat).head)


def _opening(task: Task, seed: int) -> str:
    first = 100 + seed * _FIRST_DIGITS_STEP % _FIRST_DIGITS
    if not task.introduction:
        return str(first)
    rest = random.Random(f"nonce {seed}").randrange(10**9)
    return f"{first}{rest:09d} is the number of this request. {task.introduction}"


def _plant(index: CorpusIndex, task: Task, room: int, seed: int) -> tuple[list[Part], list[int]] | None:
    """Return text with everything planted at its depth, and where it was planted, counted from the text's start."""
    items = sorted(task.planted, key=lambda item: item.depth)
    encoded = index.tokenizer.encode_pieces([item.text for item in items])
    text_tokens = room - sum(map(len, encoded))
    if text_tokens < 0:
        return None
    reader = CorpusReader(index, text_tokens, random.Random(f"start {seed}"))
    slack = min(_SLACK_TOKENS, int(text_tokens * _SLACK_SHARE))
    parts: list[Part] = []
    positions: list[int] = []
    read = planted = 0
    for item, ids in zip(items, encoded, strict=True):
        run = reader.read(round(item.depth * text_tokens) - read, slack)
        read += sum(part.tokens for part in run)
        positions.append(read + planted)
        planted += len(ids)
        parts += [*run, TextPart(ids, item.text.encode())]
    return [*parts, *reader.read(text_tokens - read)], positions
