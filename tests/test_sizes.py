import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import InputError
from farspan.sizes import (
    format_bytes,
    format_seconds,
    format_tokens,
    parse_bytes,
    parse_token_list,
    parse_tokens,
)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("8192", 8192),
        ("10k", 10_000),
        ("6.5M", 6_500_000),
        ("2Mi", 2_097_152),
        ("1_000", 1000),
        ("64Ki", 65536),
    ],
)
def test_parse_tokens(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "ten", "0", "-5", "1.5", "1.0001k", "3X", "k", "nan", "1e6"])
def test_parse_tokens_refuses(text: str) -> None:
    with pytest.raises(InputError, match="token"):
        parse_tokens(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 2**20),
        ("0", 0),
        ("64GiB", 64 * 2**30),
        ("64Gi", 64 * 2**30),
        ("1.5 GiB", 3 * 2**29),
        ("80GB", 80 * 10**9),
        ("512MiB", 2**29),
        ("1tib", 2**40),
    ],
)
def test_parse_bytes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GiB", "64G", "64 X", "1e9", "GiB", "nan"])
def test_parse_bytes_refuses(text: str) -> None:
    with pytest.raises(InputError, match="bytes"):
        parse_bytes(text)


def test_parse_token_list_keeps_order() -> None:
    assert parse_token_list("16k, 4k,64Ki") == (16_000, 4_000, 65_536)
    with pytest.raises(InputError):
        parse_token_list(" , ")


@given(st.integers(min_value=1, max_value=2**40))
def test_format_tokens_is_exact(count: int) -> None:
    assert parse_tokens(format_tokens(count)) == count


def test_formats_for_people() -> None:
    assert format_bytes(0) == "0 B"
    assert format_bytes(96_329_662_464) == "89.7 GiB"
    assert format_bytes(512 * 2**20) == "512 MiB"
    assert format_seconds(0.0032) == "3.2 ms"
    assert format_seconds(4.81) == "4.81 s"
    assert format_seconds(59.99) == "60.0 s"
    assert format_seconds(125) == "2 min 05 s"
    assert format_seconds(3720) == "1 h 02 min"
