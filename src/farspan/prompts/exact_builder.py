"""Building prompts of exactly N tokens.

A prompt is a frame (BOS or chat template, a nonce, the task's instruction; at the end its question), and between the
two a body: runs of a corpus from a random place on, with what the task plants at its depths. Everything is joined at
cuts, where counts add up (`farspan.prompts.cuts`), so the number of tokens is a sum of known numbers, and the few
tokens missing at the end are words of one token each.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from farspan.errors import InputError, UnsupportedError
from farspan.prompts.corpus import BuiltinCorpus, Corpus
from farspan.prompts.cuts import Proof
from farspan.prompts.index import CorpusIndex
from farspan.prompts.layout import head_tokens, lay_out, least_tokens
from farspan.prompts.prompt import Prompt
from farspan.prompts.recall import build_recall_prompt
from farspan.prompts.shared_prefix import SharedPrefix
from farspan.prompts.tasks import TASKS, Task, TaskRequest, parse_task
from farspan.prompts.tokenizer import Tokenizer
from farspan.prompts.turn import Turn
from farspan.prompts.verify import settle

__all__ = ["Prompt", "build_prompt", "iter_prompts"]


def build_prompt(
    tokenizer: Tokenizer,
    *,
    tokens: int,
    task: str = "needle",
    depth: float = 0.5,
    seed: int = 0,
    chat: bool = False,
    output_tokens: int | None = None,
    corpus: Corpus | None = None,
    count: int | None = None,
    shared: SharedPrefix | None = None,
    turn: Turn | None = None,
) -> Prompt:
    """Build a prompt of exactly `tokens` tokens, as the server counts them.

    Args:
        tokenizer: The server's; for the recall checkpoint the prompt is made of its own words.
        tokens: Exact length, with BOS and, for a chat, the template.
        task: One of `farspan.prompts.tasks.TASKS`.
        depth: Where the one thing asked for is planted, 0 (beginning) to 1 (end).
        seed: Decides everything random. Different seeds differ from their first tokens on.
        chat: The text is the one user message of a chat.
        output_tokens: How long the reply may be; the task's own when None.
        corpus: Where the text comes from; built-in text when None. Its token index is made once and kept on disk.
        count: How many things to plant, for the tasks that plant several.
        shared: The tokens it begins with, which other prompts have too. The task lies behind them, and `depth` counts
            from their end.
        turn: The turn of a conversation that it is for: what is planted is in no other turn's.

    Raises:
        InputError: The task is unknown or does not fit, or the corpus, tokenizer or cache cannot be used.
        UnsupportedError: A prefix is to be shared, and the tokenizer's counts do not add up.
    """
    task = parse_task(task)
    _check(tokens=tokens, depth=depth, seed=seed, output_tokens=output_tokens, count=count)
    if tokenizer.recall:
        if corpus is not None and not isinstance(corpus, BuiltinCorpus):
            raise UnsupportedError(
                f"the recall checkpoint knows no words but its own, and none of {corpus.name}",
                "leave the corpus out",
            )
        return build_recall_prompt(
            tokenizer,
            tokens=tokens,
            task=task,
            depth=depth,
            seed=seed,
            chat=chat,
            output_tokens=output_tokens,
            count=count,
            shared=shared,
            turn=turn,
        )
    if shared is not None and tokenizer.proof is Proof.CHECKED:
        raise UnsupportedError(
            f"where a shared prefix ends cannot be told with {tokenizer.name}: its counts are not known to add up",
            "leave the shared prefix out",
        )
    index = CorpusIndex(corpus or BuiltinCorpus(), tokenizer)
    request = TaskRequest(random.Random(f"{task} {seed}"), depth, count, chat, output_tokens)
    least = 0
    introduction = ""
    for variant in TASKS[task](request):
        if variant.words is not None and not isinstance(index.corpus, BuiltinCorpus):
            raise UnsupportedError(
                f"the task {task} is a list of words of its own, and none of {index.corpus.name}",
                "leave the corpus out, or take another task",
            )
        if (
            shared is not None
        ):  # the shorter forms leave it out, and a shared prefix may not depend on the form
            introduction = introduction or variant.introduction
            variant = replace(variant, introduction=introduction)
        draft = Prompt(
            tokens=tokens,
            task=task,
            depth=depth,
            seed=seed,
            chat=chat,
            needle_positions=(),
            output_tokens=variant.output_tokens,
            parts=(),
            scorer=variant.scorer,
        )

        def fill(budget: int, draft: Prompt = draft, variant: Task = variant) -> Prompt | None:
            body = lay_out(index, variant, tokens=budget, seed=seed, chat=chat, shared=shared)
            if body is None:
                return None
            return replace(
                draft,
                parts=body.parts,
                needle_positions=body.positions,
                corpus_passes=body.corpus_passes,
            )

        checked = tokenizer.proof is Proof.CHECKED
        prompt = settle(fill, tokenizer, tokens) if checked else fill(tokens)
        if prompt is not None:
            return prompt
        least = least_tokens(tokenizer, variant, seed=seed, chat=chat)
        if shared is not None:
            least += max(0, shared.tokens + 1 - head_tokens(tokenizer, variant, seed=shared.seed, chat=chat))
    raise InputError(
        f"a {task} prompt does not fit {tokens} tokens: with this tokenizer it takes at least {least}",
        "ask for more tokens"
        if task == "summarise"
        else "ask for more tokens, plant less, or use --task summarise",
    )


def iter_prompts(tokenizer: Tokenizer, number: int, *, seed: int = 0, **options: Any) -> Iterator[Prompt]:
    """Yield prompts for consecutive seeds, one at a time; each is a few kilobytes until its text or ids are used.

    Args:
        tokenizer: As for `build_prompt`.
        number: How many.
        seed: The first one's; the others count up.
        options: The other arguments of `build_prompt`.
    """
    for i in range(number):
        yield build_prompt(tokenizer, seed=seed + i, **options)


def _check(*, tokens: int, depth: float, seed: int, output_tokens: int | None, count: int | None) -> None:
    if not 0 <= depth <= 1:
        raise InputError(f"a depth of {depth:g} is outside the prompt", "use 0 (beginning) to 1 (end)")
    if seed < 0:
        raise InputError(f"the seed {seed} is negative", "use 0 or more")
    for name, value in (("tokens", tokens), ("output_tokens", output_tokens), ("count", count)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}", "use 1 or more")
