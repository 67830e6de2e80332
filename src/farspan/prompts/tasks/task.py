"""The interface of a task: text to plant, a question, a right answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from farspan.prompts.scoring import Scorer
from farspan.prompts.wordlist import WordCounts


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """The options of one task.

    Attributes:
        choice: Decides everything random; every maker starts from the same state.
        depth: 0 to 1, for tasks that have one place.
        count: How many things to plant; the task's own number when None.
        chat: The question is answered, rather than continued.
        output_tokens: How long a reply may be; the task's own when None.
    """

    choice: random.Random
    depth: float
    count: int | None
    chat: bool
    output_tokens: int | None


@dataclass(frozen=True, slots=True)
class Planted:
    """A piece of text at a place of the prompt's body.

    Attributes:
        depth: 0 at the beginning of the body, 1 at its end.
        text: Begins with a space and ends in a character that is not white space.
    """

    depth: float
    text: str


@dataclass(frozen=True, slots=True)
class Task:
    """The planted text, the question and the answer.

    Attributes:
        introduction: Follows the nonce; ends in a character that is not white space. Empty: a short nonce alone.
        planted: What stands in the body, by depth.
        closing: Ends the prompt; empty, or begins with a space.
        scorer: Knows the answer.
        output_tokens: Tokens a right reply needs, at most.
        words: The body is these words rather than a corpus.
    """

    introduction: str
    planted: tuple[Planted, ...]
    closing: str
    scorer: Scorer
    output_tokens: int
    words: WordCounts | None = None


# Yields one task in several forms, the most explicit first; the first that fits a prompt's length is used.
TaskMaker = Callable[[TaskRequest], Iterator[Task]]


def ask(question: str, lead: str, *, chat: bool) -> str:
    """Return a closing: after the text, the question, and for a completion how the answer begins.

    Args:
        question: One or more sentences.
        lead: The beginning of the answer; for a chat it is left out.
        chat: The question is answered by a chat model.
    """
    return f" [End of the text]\n\nQuestion: {question}" + ("" if chat else f"\n\nAnswer: {lead}")


def spread(count: int, choice: random.Random, first: float = 0.0, last: float = 1.0) -> list[float]:
    """Return `count` ascending depths between two depths, one at a random place of each equal share."""
    share = (last - first) / count
    return [first + share * (i + choice.random()) for i in range(count)]
