from __future__ import annotations

from statistics import fmean, median

import pytest

from farspan.errors import InputError
from farspan.measurement.lengths import parse_lengths


def test_lengths_follow_their_distribution() -> None:
    even = parse_lengths("uniform:1k,3k").draw(4000, 1)
    assert min(even) >= 1000
    assert max(even) <= 3000
    assert fmean(even) == pytest.approx(2000, rel=0.03)
    bell = parse_lengths("normal:50k,10k").draw(4000, 1)
    assert fmean(bell) == pytest.approx(50_000, rel=0.03)
    assert min(bell) >= 5000
    long_tail = parse_lengths("lognormal:50k,1.5").draw(4000, 1)
    assert median(long_tail) == pytest.approx(50_000, rel=0.1)
    assert fmean(long_tail) > 1.5 * median(long_tail)
    assert max(long_tail) <= 500_000
    mixed = parse_lengths("weights:1k=8,100k=2").draw(4000, 1)
    assert set(mixed) == {1000, 100_000}
    assert mixed.count(1000) == pytest.approx(3200, rel=0.05)


def test_draws_depend_on_the_seed_and_not_on_their_number() -> None:
    lengths = parse_lengths("uniform:1k,100k")
    assert lengths.draw(10, 1) == lengths.draw(100, 1)[:10]
    assert lengths.draw(10, 1) != lengths.draw(10, 2)


@pytest.mark.parametrize(
    "text",
    ["", "uniform", "uniform:1k", "uniform:3k,1k", "normal:1k,x", "lognormal:1k,-1", "lognormal:1k,nan",
     "weights:", "weights:1k=0", "zipf:1,2", "uniform:1k,2k,3k"],
)  # fmt: skip
def test_what_is_no_distribution_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_lengths(text)
    assert caught.value.fix
