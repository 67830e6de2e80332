"""Planted items to count, to list, and to name in a summary."""

from __future__ import annotations

from collections.abc import Iterator

from farspan.prompts.scoring import MatchKind, Scorer
from farspan.prompts.tasks.names import objects, places
from farspan.prompts.tasks.task import Planted, Task, TaskRequest, ask, spread

_REGISTER = "In the text below, delegates of several places sign a register. Remember the places.\n\nText:"


def count(request: TaskRequest) -> Iterator[Task]:
    """Items to count."""
    planted, _ = _delegates(request, request.count or request.choice.randrange(7, 20))
    question = "How many delegates signed the register? Reply with the number alone, in digits."
    yield Task(
        introduction=_REGISTER,
        planted=planted,
        closing=ask(question, "The number of delegates who signed the register is", chat=request.chat),
        scorer=Scorer(MatchKind.NUMBER, (str(len(planted)),)),
        output_tokens=request.output_tokens or 8,
    )


def list_items(request: TaskRequest) -> Iterator[Task]:
    """Items to list."""
    planted, names = _delegates(request, request.count or 10)
    question = (
        "Which places sent the delegates who signed the register? "
        "Reply with the names of the places alone, separated by commas."
    )
    yield Task(
        introduction=_REGISTER,
        planted=planted,
        closing=ask(question, "The delegates who signed the register came from", chat=request.chat),
        scorer=Scorer(MatchKind.FRACTION, names),
        output_tokens=request.output_tokens or 8 + 8 * len(names),
    )


def summarise(request: TaskRequest) -> Iterator[Task]:
    """A summary that must name what the text marks as its main findings.

    In a prompt too short for that, nothing is planted and any words score 1.
    """
    number = request.count or 4
    names = objects(number, request.choice)
    length = request.output_tokens or 200
    words = max(1, length * 3 // 5)
    yield Task(
        introduction=f"Read the text below. You will be asked for a summary of about {words} words.\n\nText:",
        planted=tuple(
            Planted(depth, f" Main finding: the {name} was the cause of all that followed.")
            for depth, name in zip(spread(number, request.choice), names, strict=True)
        ),
        closing=ask(
            f"Summarise the text in about {words} words. Name everything the text calls a main finding.",
            "The text",
            chat=request.chat,
        ),
        scorer=Scorer(MatchKind.FRACTION, tuple(names)),
        output_tokens=length,
    )
    for closing in (" Summarise this.", ""):
        yield Task(
            introduction="",
            planted=(),
            closing=closing,
            scorer=Scorer(MatchKind.ANY, ()),
            output_tokens=length,
        )


def _delegates(request: TaskRequest, number: int) -> tuple[tuple[Planted, ...], tuple[str, ...]]:
    names = tuple(places(number, request.choice))
    depths = spread(number, request.choice)
    texts = [f" The delegate of {name} signed the register." for name in names]
    return tuple(Planted(depth, text) for depth, text in zip(depths, texts, strict=True)), names
