"""Scorers: how much of the expected answer a reply brings back, from 0 to 1."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class MatchKind(StrEnum):
    """The comparison of a reply with the expected answer."""

    EXACT = "exact"  # the reply is the expected string, white space around it and a final full stop aside
    NORMALISED = "normalised"  # the expected words stand in the reply, in a row; case and punctuation aside
    NUMBER = "number"  # the first number of the reply is the expected one
    FRACTION = "fraction"  # the share of the expected items that stand in the reply, each as in `normalised`
    PREFIX = "prefix"  # the share of the expected words the reply begins with, word by word
    ANY = "any"  # nothing was planted: any words will do


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores replies.

    Attributes:
        match: How to compare.
        expected: The expected strings; one of them, except for `fraction`.
    """

    match: MatchKind
    expected: tuple[str, ...]

    @property
    def answer(self) -> str:
        """What a right reply says."""
        return ", ".join(self.expected)

    def score(self, reply: str, match: MatchKind | None = None) -> float:
        """Return how much of what is expected the reply holds, 0 to 1.

        Args:
            reply: What the model said.
            match: Compare in another way than the task's own, for instance `exact`.
        """
        return _SCORES[match or self.match](reply, self.expected)


def words_of(text: str) -> list[str]:
    """Return a text's words: lower case, punctuation gone, digits grouped by commas or spaces kept as they are."""
    return re.findall(r"[^\W_]+", re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.casefold()))


def _exact(reply: str, expected: Sequence[str]) -> float:
    return float(reply.strip().removesuffix(".") == ", ".join(expected))


def _normalised(reply: str, expected: Sequence[str]) -> float:
    return _fraction(reply, expected[:1])


def _number(reply: str, expected: Sequence[str]) -> float:
    number = next((word for word in words_of(reply) if word.isdecimal()), None)
    return float(number == expected[0])


def _fraction(reply: str, expected: Sequence[str]) -> float:
    said = f" {' '.join(words_of(reply))} "
    return sum(f" {' '.join(words_of(item))} " in said for item in expected) / len(expected)


def _prefix(reply: str, expected: Sequence[str]) -> float:
    wanted = expected[0].split()
    said = reply.split()
    return sum(a == b for a, b in zip(wanted, said, strict=False)) / len(wanted)


def _any(reply: str, expected: Sequence[str]) -> float:  # noqa: ARG001
    return float(bool(words_of(reply)))


_SCORES: dict[MatchKind, Callable[[str, Sequence[str]], float]] = {
    MatchKind.EXACT: _exact,
    MatchKind.NORMALISED: _normalised,
    MatchKind.NUMBER: _number,
    MatchKind.FRACTION: _fraction,
    MatchKind.PREFIX: _prefix,
    MatchKind.ANY: _any,
}
