"""Thresholds for CI, such as `ttft.p50 > 1.1 * plan`: a grammar of its own, so that nothing given is ever executed.

condition  = comparison { ("and" | "or") comparison }        and before or; parentheses as usual
comparison = sum ("<" | "<=" | ">" | ">=") sum
sum        = product { ("+" | "-") product }
product    = factor { ("*" | "/") factor }
factor     = number [unit] | name | "(" ... ")" | "-" factor
unit       = "s" | "ms" | "%"
name       = letters, digits, "_" and "." such as ttft.p50
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from farspan.errors import InputError

_LONGEST = 500
_DEEPEST = 40
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?:\s*(?P<unit>ms|s|%))?(?![\w.])"
    r"|(?P<name>[A-Za-z_][\w]*(?:\.[\w]+)*)|(?P<sign><=|>=|[<>+\-*/()]))"
)
_UNITS = {None: 1.0, "s": 1.0, "ms": 1e-3, "%": 1e-2}
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SUMS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
Lookup = Callable[[str], float | None]


class UnknownValueError(Exception):
    """A name of the condition has no value here, or the arithmetic has no result; the message says which."""


class _Token(NamedTuple):
    kind: str
    text: str
    value: float
    at: int


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of a condition: a number, a name, or an operator with its operands."""

    kind: str
    text: str = ""
    value: float = 0.0
    parts: tuple[_Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition.

    Args:
        text: As it was given.
        names: The names in it, each once, in order.
    """

    text: str
    names: tuple[str, ...]
    _root: _Node

    def holds(self, lookup: Lookup) -> bool:
        """Tell whether the condition is true.

        Args:
            lookup: Returns a name's value, None when it is not known here.

        Raises:
            UnknownValueError: A name has no value, or a division has no result.
        """
        return bool(_evaluate(self._root, lookup))


def parse_condition(text: str) -> Condition:
    """Parse a condition.

    Raises:
        InputError: It does not follow the grammar; the message says where.
    """
    if len(text) > _LONGEST:
        raise InputError(f"a condition of {len(text)} characters", f"write at most {_LONGEST}")
    parser = _Parser(text, _read_tokens(text))
    root = parser.read_either(0)
    if parser.token.kind != "end":
        raise parser.wrong(f"{parser.token.text!r} is left over")
    if root.kind not in ("compare", "both", "either"):
        raise parser.wrong("it compares nothing")
    return Condition(text, tuple(dict.fromkeys(_list_names(root))), root)


def _read_tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise _wrong(text, start, f"{text[start : start + 10]!r} is not understood")
        if match["number"] is not None:
            value = float(match["number"]) * _UNITS[match["unit"]]
            tokens.append(_Token("number", match[0].strip(), value, match.start("number")))
        elif match["name"] is not None:
            word = match["name"]
            kind = word if word in ("and", "or") else "name"
            tokens.append(_Token(kind, word, 0.0, match.start("name")))
        else:
            tokens.append(_Token(match["sign"], match["sign"], 0.0, match.start("sign")))
        at = match.end()
    return [*tokens, _Token("end", "", 0.0, len(text))]


class _Parser:
    """Reads tokens from left to right, one method a rule."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._next = 0

    @property
    def token(self) -> _Token:
        return self._tokens[self._next]

    def wrong(self, why: str) -> InputError:
        return _wrong(self._text, self.token.at, why)

    def read_either(self, depth: int) -> _Node:
        return self._read_chain("or", "either", self._read_both, depth)

    def _read_both(self, depth: int) -> _Node:
        return self._read_chain("and", "both", self._read_comparison, depth)

    def _read_chain(self, word: str, kind: str, read: Callable[[int], _Node], depth: int) -> _Node:
        if depth > _DEEPEST:
            raise self.wrong("it is nested too deeply")
        node = read(depth)
        while self.token.kind == word:
            self._check_condition(node)
            self._next += 1
            other = read(depth)
            self._check_condition(other)
            node = _Node(kind, parts=(node, other))
        return node

    def _read_comparison(self, depth: int) -> _Node:
        left = self._read_sum(depth)
        if self.token.kind not in _COMPARISONS:
            return left
        sign = self._take()
        right = self._read_sum(depth)
        self._check_number(left)
        self._check_number(right)
        if self.token.kind in _COMPARISONS:
            raise self.wrong("one comparison follows another; join them with and")
        return _Node("compare", sign.kind, parts=(left, right))

    def _read_sum(self, depth: int) -> _Node:
        return self._read_arithmetic(("+", "-"), self._read_product, depth)

    def _read_product(self, depth: int) -> _Node:
        return self._read_arithmetic(("*", "/"), self._read_factor, depth)

    def _read_arithmetic(self, signs: tuple[str, str], read: Callable[[int], _Node], depth: int) -> _Node:
        node = read(depth)
        while self.token.kind in signs:
            self._check_number(node)
            sign = self._take()
            other = read(depth)
            self._check_number(other)
            node = _Node("sum", sign.kind, parts=(node, other))
        return node

    def _read_factor(self, depth: int) -> _Node:
        token = self.token
        if token.kind in ("number", "name"):
            self._next += 1
            return _Node(token.kind, token.text, token.value)
        if token.kind == "-" and depth <= _DEEPEST:
            self._next += 1
            factor = self._read_factor(depth + 1)
            self._check_number(factor)
            return _Node("sum", "-", parts=(_Node("number"), factor))
        if token.kind == "(":
            self._next += 1
            node = self.read_either(depth + 1)
            if self.token.kind != ")":
                raise self.wrong("a closing parenthesis is missing")
            self._next += 1
            return node
        raise self.wrong("a number or a name is missing")

    def _take(self) -> _Token:
        self._next += 1
        return self._tokens[self._next - 1]

    def _check_number(self, node: _Node) -> None:
        if node.kind in ("compare", "both", "either"):
            raise self.wrong("a comparison stands where a number must")

    def _check_condition(self, node: _Node) -> None:
        if node.kind not in ("compare", "both", "either"):
            raise self.wrong("a number stands where a comparison must")


def _wrong(text: str, at: int, why: str) -> InputError:
    where = f"after {text[:at].strip()!r}" if text[:at].strip() else "at its start"
    return InputError(
        f"the condition {text!r} is wrong {where}: {why}", "write it like 'ttft.p50 > 1.1 * plan'"
    )


def _evaluate(node: _Node, lookup: Lookup) -> float | bool:
    if node.kind == "number":
        return node.value
    if node.kind == "name":
        value = lookup(node.text)
        if value is None or not math.isfinite(value):
            raise UnknownValueError(f"{node.text} is not known")
        return value
    # Both sides, always: a value that is not known must show, whatever the other side says.
    left, right = (_evaluate(part, lookup) for part in node.parts)
    if node.kind == "both":
        return bool(left) and bool(right)
    if node.kind == "either":
        return bool(left) or bool(right)
    if node.kind == "compare":
        return _COMPARISONS[node.text](left, right)
    try:
        result = _SUMS[node.text](left, right)
    except (ZeroDivisionError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise UnknownValueError("a division by zero, or a number too large")
    return result


def _list_names(node: _Node) -> list[str]:
    if node.kind == "name":
        return [node.text]
    return [name for part in node.parts for name in _list_names(part)]
