"""The grammar of --fail-if: what it says, what it refuses, and that it never runs anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import InputError
from farspan.measurement.analysis.threshold import UnknownValueError, parse_condition

KNOWN = {"ttft.p50": 2.0, "plan": 1.0, "failed": 0.0, "itl.p99": 0.06, "score": 0.5}


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("ttft.p50 > 1.1 * plan", True),
        ("ttft.p50 > 2.1 * plan", False),
        ("ttft.p50>=2", True),
        ("ttft.p50 < 2 or failed > 0", False),
        ("itl.p99 > 50ms and ttft.p50 <= 2s", True),
        ("score < 60%", True),
        ("1 > 2 or 3 > 2 and 1 > 2", False),
        ("(1 > 2 or 3 > 2) and 2 > 1", True),
        ("2 + 3 * 4 >= 14 and 2 + 3 * 4 <= 14", True),
        ("(2 + 3) * 4 > 14", True),
        ("10 - 4 - 3 < 4", True),
        ("8 / 4 / 2 <= 1", True),
        ("-plan < 0", True),
        ("1e3ms <= 1s", True),
        ("1000 ms <= 1 s", True),
    ],
)
def test_conditions_mean_what_they_say(text: str, truth: bool) -> None:
    assert parse_condition(text).holds(KNOWN.get) is truth


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a number or a name is missing"),
        ("ttft.p50", "it compares nothing"),
        ("1 >", "a number or a name is missing"),
        ("1 > 2 > 3", "one comparison follows another"),
        ("(1 > 2", "a closing parenthesis is missing"),
        ("1 > 2)", "')' is left over"),
        ("(1 > 2) + 1 > 0", "a comparison stands where a number must"),
        ("1 and 2 > 1", "a number stands where a comparison must"),
        ("ttft.p50 = 2", "'= 2' is not understood"),
        ("1.1x > 2", "'1.1x > 2' is not understood"),
        ("__import__('os').system('true')", "\"'os').syst\" is not understood"),
        ("a[0] > 1", "'[0] > 1' is not understood"),
        ("(" * 100 + "1", "nested too deeply"),
        ("-" * 100 + "1 > 2", "is missing"),
        ("1 > 2" + " " * 600, "a condition of 605 characters"),
    ],
)
def test_what_is_wrong_is_named(text: str, why: str) -> None:
    with pytest.raises(InputError) as error:
        parse_condition(text)
    assert why in str(error.value)


def test_what_is_not_known_is_an_error_and_never_a_pass() -> None:
    for text in (
        "ttft.p99 > 1",
        "1 > 2 and ttft.p99 > 1",
        "2 > 1 or ttft.p99 > 1",
        "1 / failed > 0",
        "1e300 * 1e300 > 1",
    ):
        with pytest.raises(UnknownValueError):
            parse_condition(text).holds(KNOWN.get)
    with pytest.raises(UnknownValueError):
        parse_condition("a > 1").holds({"a": float("nan")}.get)


numbers = st.integers(0, 1000).map(str) | st.floats(0, 1e6).map(lambda x: f"{x:.3f}")
sums = st.recursive(
    numbers,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner)
        | st.builds("{} {} {}".format, inner, st.sampled_from("+-*"), inner)
    ),
    max_leaves=6,
)


@given(sums, st.sampled_from(["<", "<=", ">", ">="]), sums)
def test_arithmetic_is_pythons(left: str, sign: str, right: str) -> None:
    """The same text through Python's own parser: precedence and associativity agree."""
    text = f"{left} {sign} {right}"
    assert parse_condition(text).holds({}.get) is eval(text)


words = st.sampled_from(["a", "1", ">", "(", ")", "and", "or", "+", "-", "2ms", ".", "x.y"])


@given(st.text(max_size=60) | st.lists(words, max_size=12).map(" ".join))
def test_any_text_is_a_condition_or_a_sentence(text: str) -> None:
    said = ""
    try:
        said = str(parse_condition(text).holds(lambda _: 1.0))
    except (InputError, UnknownValueError) as error:
        said = str(error)
    assert said
