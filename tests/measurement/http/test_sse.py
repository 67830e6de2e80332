from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.measurement.http.sse import OversizedEventError, SseParser

LINE = st.binary(max_size=12).filter(lambda line: b"\n" not in line and b"\r" not in line)


def parse(stream: bytes, cuts: list[int] | None = None) -> list[bytes]:
    parser = SseParser()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts or []), len(stream)]
    return [event for a, b in pairwise(edges) for event in parser.feed(stream[a:b])]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata:b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: one\ndata: two\n\n", [b"one\ntwo"]),
        (b": keep-alive\n\ndata: a\n\n", [b"a"]),
        (b"event: delta\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"data\n\ndata:\n\n", [b"", b""]),
        (b"data:  two spaces\n\n", [b" two spaces"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\n\n\n\n\ndata: [DONE]\n\n", [b"a", b"[DONE]"]),
        (b"dataset: a\n\n", []),
        (b"data: cut off", []),
        (b"data: cut off\n", []),
        (b"", []),
    ],
)
def test_events(stream: bytes, events: list[bytes]) -> None:
    assert parse(stream) == events
    assert parse(stream, list(range(len(stream)))) == events


@given(
    payloads=st.lists(st.lists(LINE, min_size=1, max_size=3), max_size=6),
    ends=st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=1, max_size=5),
    noise=st.lists(LINE, max_size=3),
    cuts=st.lists(st.integers(min_value=0, max_value=10_000), max_size=20),
)
def test_any_split_gives_the_same_events(
    payloads: list[list[bytes]], ends: list[bytes], noise: list[bytes], cuts: list[int]
) -> None:
    lines: list[bytes] = []
    for payload in payloads:
        lines += [b":" + comment for comment in noise]
        lines += [b"data: " + line for line in payload]
        lines.append(b"")
    stream = b"".join(line + ends[i % len(ends)] for i, line in enumerate(lines))
    # An LF line end right after a CR one would be read as one CRLF; the standard reads it so too.
    expected = parse(stream)
    assert parse(stream, cuts) == expected
    if len(set(ends)) == 1:
        assert expected == [b"\n".join(payload) for payload in payloads]


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_garbage_never_raises_and_splits_do_not_matter(chunks: list[bytes]) -> None:
    parser = SseParser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    assert events == parse(b"".join(chunks))


def test_an_endless_line_is_refused() -> None:
    for piece, fitting in ((b"x" * 10, 100), (b"data: 1234567890\n", 100)):
        parser = SseParser(max_event_bytes=1000)
        for _ in range(fitting):
            assert parser.feed(piece) == []
        with pytest.raises(OversizedEventError):
            parser.feed(piece)


def test_many_small_pieces_of_a_long_line_cost_linear_time() -> None:
    parser = SseParser()
    for _ in range(200_000):
        assert parser.feed(b"x") == []
    assert parser.feed(b"\ndata: a\n\n") == [b"a"]
