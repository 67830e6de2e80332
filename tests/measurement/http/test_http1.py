from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.measurement.http.http1 import AnswerReader, MalformedAnswerError, write_head


def read(data: bytes, cuts: list[int], *, ended: bool = True) -> tuple[AnswerReader, bytes]:
    reader = AnswerReader()
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    body = b"".join(reader.feed(data[a:b]) for a, b in pairwise(edges))
    if ended:
        reader.end()
    return reader, body


CUTS = st.lists(st.integers(0, 5000), max_size=15)


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=30), max_size=8), cuts=CUTS, extra=st.binary(max_size=5)
)
def test_chunks_come_out_whole_wherever_they_are_cut(
    chunks: list[bytes], cuts: list[int], extra: bytes
) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n\r\n"
    data += b"".join(b"%X;name=value\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    data += b"0\r\nTrailer: yes\r\n\r\n" + extra
    reader, body = read(data, cuts)
    assert reader.status == 200
    assert reader.content_type == "text/event-stream"
    assert body == b"".join(chunks)
    assert reader.complete
    cut_off, _ = read(data[: len(data) - len(extra) - 1], cuts)
    assert not cut_off.complete


@given(body=st.binary(max_size=50), cuts=CUTS)
def test_a_length_and_a_close_end_a_body(body: bytes, cuts: list[int]) -> None:
    head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 \r\nX-A: 1\r\ncontent-length: %d\r\n\r\n" % len(body)
    reader, found = read(head + body + b"more", cuts, ended=False)
    assert (reader.status, reader.reason, found, reader.complete) == (404, "Not Found", body, True)
    assert reader.headers["x-a"] == "1"
    reader, found = read(b"HTTP/1.0 200 Fine\r\n\r\n" + body, cuts, ended=False)
    assert (reader.reason, found, reader.complete) == ("Fine", body, False)
    assert reader.end()


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000,
        b"HTTP/1.1 " + b"x" * 300_000,
    ],
)
def test_what_is_not_http_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedAnswerError):
        AnswerReader().feed(data)


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_garbage_is_read_or_refused(chunks: list[bytes]) -> None:
    reader = AnswerReader()
    try:
        for chunk in chunks:
            reader.feed(chunk)
    except MalformedAnswerError:
        pass
    assert reader.complete in (True, False)


def test_a_head_names_the_host_and_the_length_and_takes_no_line_breaks() -> None:
    head = write_head("::1", 8000, "/v1/completions", {"X": "y"}, body_bytes=5)
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\nHost: [::1]:8000\r\nX: y\r\n")
    assert b"Content-Length: 5\r\n" in head
    assert head.endswith(b"\r\n\r\n")
    with pytest.raises(MalformedAnswerError):
        write_head("h", 1, "/", {"Authorization": "Bearer a\r\nEvil: yes"}, body_bytes=0)
