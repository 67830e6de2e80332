"""Facts with codes: one needle, several, one among several, and the last of many updates."""

from __future__ import annotations

from collections.abc import Iterator

from farspan.prompts.scoring import MatchKind, Scorer
from farspan.prompts.tasks.names import codes, objects, places
from farspan.prompts.tasks.task import Planted, Task, TaskRequest, ask, spread

_INTRODUCTION = (
    "Somewhere in the text below are access codes. Remember them; you will be asked for them.\n\nText:"
)


def needle(request: TaskRequest) -> Iterator[Task]:
    """One fact at the depth asked for."""
    (thing,), (code,) = objects(1, request.choice), codes(1, request.choice)
    question = f"What is the access code of the {thing}? Reply with the code alone."
    yield Task(
        introduction=_INTRODUCTION,
        planted=(Planted(request.depth, f" The access code of the {thing} is {code}."),),
        closing=ask(question, f"The access code of the {thing} is", chat=request.chat),
        scorer=Scorer(MatchKind.NORMALISED, (code,)),
        output_tokens=request.output_tokens or 16,
    )
    # The shortest form that still has something to remember: a word and a number, and the word again.
    word, number = thing.split()[0], code[:3]
    yield Task(
        introduction="",
        planted=(Planted(request.depth, f" {word} is {number}."),),
        closing=f" {word} is",
        scorer=Scorer(MatchKind.NORMALISED, (number,)),
        output_tokens=request.output_tokens or 8,
    )


def multi_needle(request: TaskRequest) -> Iterator[Task]:
    """Several facts, all of them asked for."""
    count = request.count or 8
    things, numbers = objects(count, request.choice), codes(count, request.choice)
    depths = spread(count, request.choice)
    question = (
        f"What are the access codes of the {', the '.join(things)}? "
        "Reply with the codes alone, in this order, separated by commas."
    )
    yield Task(
        introduction=_INTRODUCTION,
        planted=_facts(depths, things, numbers),
        closing=ask(question, "The codes, in this order, are", chat=request.chat),
        scorer=Scorer(MatchKind.FRACTION, tuple(numbers)),
        output_tokens=request.output_tokens or 8 + 8 * count,
    )


def multi_key(request: TaskRequest) -> Iterator[Task]:
    """Several facts, of which the one at the depth asked for is asked for."""
    count = request.count or 8
    things, numbers = objects(count, request.choice), codes(count, request.choice)
    depths = [request.depth, *spread(count - 1, request.choice)] if count > 1 else [request.depth]
    question = f"What is the access code of the {things[0]}? Reply with the code alone."
    yield Task(
        introduction=_INTRODUCTION,
        planted=_facts(depths, things, numbers),
        closing=ask(question, f"The access code of the {things[0]} is", chat=request.chat),
        scorer=Scorer(MatchKind.NORMALISED, (numbers[0],)),
        output_tokens=request.output_tokens or 16,
    )


def last_update(request: TaskRequest) -> Iterator[Task]:
    """One key whose value changes many times; the last change lies at the depth asked for."""
    count = request.count or 8
    (place,), numbers = places(1, request.choice), codes(count, request.choice)
    depths = (
        [*spread(count - 1, request.choice, last=request.depth), request.depth]
        if count > 1
        else [request.depth]
    )
    question = f"To which code was the lock of {place} changed last? Reply with the code alone."
    yield Task(
        introduction=(
            "In the text below the code of a lock is changed several times. "
            "Only the last change counts.\n\nText:"
        ),
        planted=tuple(
            Planted(depth, f" The code of the lock of {place} was changed to {number}.")
            for depth, number in zip(depths, numbers, strict=True)
        ),
        closing=ask(question, f"The code of the lock of {place} was last changed to", chat=request.chat),
        scorer=Scorer(MatchKind.NORMALISED, (numbers[-1],)),
        output_tokens=request.output_tokens or 16,
    )


def _facts(depths: list[float], things: list[str], numbers: list[str]) -> tuple[Planted, ...]:
    return tuple(
        Planted(depth, f" The access code of the {thing} is {number}.")
        for depth, thing, number in zip(depths, things, numbers, strict=True)
    )
