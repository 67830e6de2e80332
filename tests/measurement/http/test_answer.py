from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.measurement.http.answer import Answer, AnswerTape
from farspan.measurement.http.sse import SseParser, read_stream
from farspan.measurement.http.wire import MalformedEventError, Usage, read_event

TEXTS = st.text(max_size=8) | st.sampled_from(['"', "\\", "\n", "é", " w", "[DONE]", "data: [DONE]", "}\n\n"])


def event(text: str, *, chat: bool = False, finish: str | None = None, **more: Any) -> bytes:
    part = {"delta": {"content": text}} if chat else {"text": text}
    document = {"id": "x", "choices": [{"index": 0, **part, "finish_reason": finish}], "usage": None, **more}
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def read(stream: bytes, cuts: list[int]) -> tuple[Answer, AnswerTape]:
    """Read a stream cut into pieces that arrive at 1, 2, 3, ..."""
    edges = [0, *sorted({cut % (len(stream) + 1) for cut in cuts}), len(stream)]
    tape = AnswerTape()
    for number, (start, end) in enumerate(pairwise(edges), start=1):
        tape.add(float(number), stream[start:end])
    return tape.read(), tape


def read_slowly(stream: bytes) -> tuple[str, int, bool]:
    """What the stream says, event by event."""
    texts, count, done = "", 0, False
    for payload in SseParser().feed(stream):
        one = read_event(payload)
        texts += one.text
        count += one.has_token
        done = done or one.done
    return texts, count, done


@settings(max_examples=80)
@given(
    texts=st.lists(TEXTS, max_size=30),
    kinds=st.lists(
        st.sampled_from(["same", "same", "same", "usage", "chat", "other"]), min_size=30, max_size=30
    ),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
    ended=st.booleans(),
)
def test_reading_at_the_end_is_reading_event_by_event(
    texts: list[str], kinds: list[str], cuts: list[int], ended: bool
) -> None:
    more: dict[str, dict[str, Any]] = {
        "same": {},
        "usage": {"usage": {"prompt_tokens": 5, "completion_tokens": 2}},
        "chat": {"chat": True},
        "other": {"id": "y"},
    }
    stream = b"".join(event(text, **more[kind]) for text, kind in zip(texts, kinds, strict=False))
    stream += b"data: [DONE]\n\n" if ended else b""
    answer, tape = read(stream, cuts)
    expected = read_slowly(stream)
    assert (answer.text, len(answer.token_times_s), answer.done) == expected
    assert tape.has_token == (expected[1] > 0)
    assert tape.ended == ended
    assert list(answer.token_times_s) == sorted(answer.token_times_s)


def test_a_token_has_the_time_of_the_piece_that_completed_its_event() -> None:
    one, two, three = event("a"), event("b"), event("c")
    tape = AnswerTape()
    tape.add(1.0, one[:20])
    assert not tape.has_token
    tape.add(2.0, one[20:] + two)
    assert tape.has_token
    tape.add(3.0, three[:-1])
    tape.add(4.0, three[-1:])
    assert tape.read().token_times_s == (2.0, 2.0, 4.0)


def test_an_endless_answer_is_read_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farspan.measurement.http.answer._WAITING_BYTES", 2000)
    pieces = [event(f" {i}") for i in range(1000)]
    stream = b"".join(pieces)
    tape = AnswerTape()
    for start in range(0, len(stream), 77):
        tape.add(start / 77, stream[start : start + 77])
        assert tape._waiting_bytes < 2300
    answer = tape.read()
    assert answer.text == "".join(f" {i}" for i in range(1000))
    assert len(answer.token_times_s) == 1000
    garbage = AnswerTape()
    for _ in range(100):
        garbage.add(0.0, b"x" * 100)
    assert garbage.ended
    assert "more than 2000 bytes" in garbage.read().error


def test_what_a_server_says_went_wrong_ends_the_stream() -> None:
    tape = AnswerTape()
    tape.add(1.0, event("a"))
    tape.add(2.0, b'data: {"error": {"message": "engine died"}}\n\n')
    assert tape.read().error == "engine died"
    early = AnswerTape()
    early.add(1.0, b'data: {"error": {"message": "engine died"}}\n\n')
    assert early.ended


def generated(text: str, count: int, ids: list[int], **meta: Any) -> bytes:
    document = {
        "text": text,
        "output_ids": ids,
        "meta_info": {"prompt_tokens": 9, "completion_tokens": count, **meta},
    }
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def test_generate_sends_the_reply_so_far_or_its_pieces() -> None:
    last = {"finish_reason": {"type": "length"}, "cached_tokens": 0, "queue_time": 0.5}
    whole = [generated(" a", 1, [1]), generated(" a b", 2, [1, 2]), generated(" a b c", 3, [1, 2, 3], **last)]
    pieces = [generated(" a", 1, [1]), generated(" b", 2, [2]), generated(" c", 3, [3], **last)]
    for events in (whole, pieces):
        tape = AnswerTape()
        for number, one in enumerate(events):
            tape.add(float(number), one)
        tape.add(9.0, b"data: [DONE]\n\n")
        answer = tape.read()
        assert answer.text == " a b c"
        assert answer.token_times_s == (0.0, 1.0, 2.0)
        assert answer.usage == Usage(9, 0, 3, 0.5)
        assert answer.finish_reason == "length"
        assert answer.done


def test_a_request_that_sglang_aborts_is_an_error() -> None:
    tape = AnswerTape()
    tape.add(0.0, generated("", 0, [], finish_reason={"type": "abort", "message": "out of memory"}))
    assert tape.read().error == "out of memory"


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_stream_is_split_as_the_parser_splits_it(chunks: list[bytes]) -> None:
    parser = SseParser()
    expected = [(payload, place) for place, chunk in enumerate(chunks) for payload in parser.feed(chunk)]
    assert list(zip(*read_stream(chunks), strict=True)) == expected


def test_an_event_without_an_end_is_bounded() -> None:
    tape = AnswerTape()
    tape.add(1.0, b'data: {"choices":[{"text":"')
    pieces = 0
    while not tape.ended:
        tape.add(2.0, b"x" * 2**16)
        pieces += 1
    assert tape.oversized
    assert pieces < 300
    assert "more than" in tape.read().error


def test_many_small_pieces_of_an_event_take_its_bytes_and_no_more() -> None:
    tape = AnswerTape()
    tape.add(1.0, b"data: ")
    for _ in range(300_000):
        tape.add(2.0, b"xy")
    assert len(tape._pieces) < 100_000
    tape.add(3.0, event("a"))
    assert "not JSON" in tape.read().error


@settings(max_examples=60)
@given(
    events=st.lists(st.binary(max_size=40) | TEXTS.map(event), max_size=30),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_any_bytes_are_counted_and_never_raise(events: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(events)
    answer, tape = read(stream, cuts)
    assert len(answer.token_times_s) <= stream.count(b"data")
    whole = AnswerTape()
    whole.add(1.0, stream)
    assert tape.events <= whole.events


def test_a_stream_that_is_not_json_is_named() -> None:
    with pytest.raises(MalformedEventError):
        read_event(b"{")
    tape = AnswerTape()
    tape.add(0.0, event("a") + b"data: {oh no\n\n")
    assert "not JSON: {oh no" in tape.read().error
