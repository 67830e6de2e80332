"""Facts that lead to each other: chains of places, and variables assigned to variables."""

from __future__ import annotations

import string
from collections.abc import Iterator

from farspan.prompts.scoring import MatchKind, Scorer
from farspan.prompts.tasks.names import codes, draw, places
from farspan.prompts.tasks.task import Planted, Task, TaskRequest, ask, spread

# Chains of variables beside the one that is asked for.
_OTHER_CHAINS = 2


def chain(request: TaskRequest) -> Iterator[Task]:
    """A chain of places: each fact names the next, and they stand in the text in no request."""
    hops = request.count or 4
    stops = places(hops + 1, request.choice)
    depths = spread(hops, request.choice)
    request.choice.shuffle(depths)
    question = (
        f"A courier starts in {stops[0]} and follows the sealed orders for {hops} journeys. "
        "Where is the courier then? Reply with the name of the place alone."
    )
    yield Task(
        introduction=(
            "In the text below sealed orders send couriers from one place to another. "
            "Remember all of them.\n\nText:"
        ),
        planted=tuple(
            Planted(depth, f" Sealed orders send every courier who is in {here} on to {there}.")
            for depth, here, there in zip(depths, stops, stops[1:], strict=False)
        ),
        closing=ask(question, f"After {hops} journeys the courier is in", chat=request.chat),
        scorer=Scorer(MatchKind.NORMALISED, (stops[-1],)),
        output_tokens=request.output_tokens or 16,
    )


def variable_tracking(request: TaskRequest) -> Iterator[Task]:
    """Variables assigned to each other, as in RULER (arXiv 2404.06654, task VT), among other such chains."""
    hops = request.count or 4
    length = hops + 1
    names = _variables(length * (_OTHER_CHAINS + 1), request)
    numbers = codes(_OTHER_CHAINS + 1, request.choice)
    planted = []
    for number, chain_of in zip(numbers, _groups(names, length), strict=True):
        values = [number, *(f"VAR {name}" for name in chain_of)]
        planted += [
            Planted(depth, f" VAR {name} = {value}.")
            for depth, name, value in zip(spread(length, request.choice), chain_of, values, strict=False)
        ]
    question = (
        f"Which {length} variables have the value {numbers[0]}, by assignment or through others? "
        "Reply with their names alone, separated by commas."
    )
    yield Task(
        introduction=(
            "In the text below are assignments to variables, some of a number and some of another variable. "
            "Track their values.\n\nText:"
        ),
        planted=tuple(planted),
        closing=ask(question, f"The variables with the value {numbers[0]} are", chat=request.chat),
        scorer=Scorer(MatchKind.FRACTION, tuple(names[:length])),
        output_tokens=request.output_tokens or 8 + 6 * length,
    )


def _variables(count: int, request: TaskRequest) -> list[str]:
    """Return different names of five capital letters."""
    letters = string.ascii_uppercase
    names = []
    for number in draw(len(letters) ** 5, count, request.choice):
        name = ""
        for _ in range(5):
            number, letter = divmod(number, len(letters))
            name += letters[letter]
        names.append(name)
    return names


def _groups(names: list[str], size: int) -> list[list[str]]:
    return [names[i : i + size] for i in range(0, len(names), size)]
