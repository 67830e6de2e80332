"""Prompt lengths drawn from a distribution, for a load of mixed requests."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from farspan.errors import InputError
from farspan.sizes import parse_tokens

_HOW = "write uniform:1k,100k, normal:50k,10k, lognormal:50k,0.5 or weights:1k=8,100k=2"


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of prompt lengths, in tokens.

    Args:
        text: As the user wrote it; two distributions are the same when it is.
    """

    text: str

    def draw(self, count: int, seed: int) -> tuple[int, ...]:
        """Draw `count` lengths; the first ones are the same whatever the count."""
        random_numbers = random.Random(f"lengths {self.text} {seed}")
        draw_one = _SHAPES[self.text.partition(":")[0]](self.text.partition(":")[2])
        return tuple(max(1, round(draw_one(random_numbers))) for _ in range(count))


def parse_lengths(text: str) -> Lengths:
    """Read a distribution.

    `uniform:LOW,HIGH` draws evenly, both ends included; `normal:MEAN,STD` and `lognormal:MEDIAN,SIGMA` (sigma of the
    logarithm) are cut to a tenth to ten times their first number; `weights:SIZE=WEIGHT,...` draws from a list.

    Raises:
        InputError: It is none of these.
    """
    name, _, numbers = text.strip().partition(":")
    if name not in _SHAPES:
        raise InputError(f"{text!r} is not a distribution of lengths", _HOW)
    _SHAPES[name](numbers)
    return Lengths(f"{name}:{numbers}")


_Draw = Callable[[random.Random], float]


def _uniform(numbers: str) -> _Draw:
    low, high = (parse_tokens(number) for number in _two(numbers))
    if low > high:
        raise InputError(f"uniform:{numbers} has its lower end above the upper one", _HOW)
    return lambda numbers: numbers.randint(low, high)


def _normal(numbers: str) -> _Draw:
    mean, deviation = (parse_tokens(number) for number in _two(numbers))
    return lambda numbers: min(max(numbers.gauss(mean, deviation), mean / 10), mean * 10)


def _lognormal(numbers: str) -> _Draw:
    first, second = _two(numbers)
    middle, sigma = parse_tokens(first), _positive(second)
    return lambda numbers: min(max(numbers.lognormvariate(math.log(middle), sigma), middle / 10), middle * 10)


def _weights(numbers: str) -> _Draw:
    sizes: list[int] = []
    weights: list[float] = []
    for part in numbers.split(","):
        size, equals, weight = part.partition("=")
        sizes.append(parse_tokens(size))
        weights.append(_positive(weight) if equals else 1.0)
    bounds = list(accumulate(weights))
    return lambda numbers: numbers.choices(sizes, cum_weights=bounds)[0]


_SHAPES: dict[str, Callable[[str], _Draw]] = {
    "uniform": _uniform,
    "normal": _normal,
    "lognormal": _lognormal,
    "weights": _weights,
}


def _two(numbers: str) -> tuple[str, str]:
    parts = numbers.split(",")
    if len(parts) != 2:
        raise InputError(f"{numbers!r} is not two numbers", _HOW)
    return parts[0], parts[1]


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise InputError(f"{text!r} is not a number above 0", _HOW)
    return value
