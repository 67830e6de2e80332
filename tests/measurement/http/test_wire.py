from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.measurement.http.wire import (
    AnswerEvent,
    Api,
    MalformedEventError,
    Usage,
    encode_body,
    read_error_body,
    read_event,
)


def test_ids_are_encoded_exactly() -> None:
    ids = np.arange(5, dtype=np.int32) * 1000
    body = json.loads(encode_body(Api.COMPLETIONS, model="m", prompt=ids, output_tokens=7))
    assert body["prompt"] == [0, 1000, 2000, 3000, 4000]
    assert body["max_tokens"] == 7
    assert body["temperature"] == 0
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert "ignore_eos" not in body


def test_a_slice_that_is_not_contiguous_is_encoded() -> None:
    ids = np.arange(10, dtype=np.int32)[::2]
    assert json.loads(encode_body(Api.COMPLETIONS, model="m", prompt=ids, output_tokens=1))["prompt"] == [
        0, 2, 4, 6, 8,
    ]  # fmt: skip


def test_chat_takes_one_user_message() -> None:
    body = json.loads(
        encode_body(
            Api.CHAT, model="m", prompt="hi “you”", output_tokens=7, ignore_eos=True, extra={"top_k": 1}
        )
    )
    assert body["messages"] == [{"role": "user", "content": "hi “you”"}]
    assert body["ignore_eos"] is True
    assert body["top_k"] == 1
    with pytest.raises(TypeError):
        encode_body(Api.CHAT, model="m", prompt=np.zeros(3, np.int32), output_tokens=1)


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        ({"choices": [{"text": "a", "finish_reason": None}]}, AnswerEvent("a", True)),
        ({"choices": [{"text": "", "finish_reason": None}]}, AnswerEvent("", True)),
        ({"choices": [{"text": "", "finish_reason": "length"}]}, AnswerEvent("", False, "length")),
        ({"choices": [{"text": "a", "finish_reason": "stop"}]}, AnswerEvent("a", True, "stop")),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, AnswerEvent("", False)),
        ({"choices": [{"delta": {"role": "assistant", "content": "a"}}]}, AnswerEvent("a", True)),
        ({"choices": [{"delta": {"content": "a"}, "finish_reason": None}]}, AnswerEvent("a", True)),
        ({"choices": [{"delta": {"reasoning_content": "hm"}}]}, AnswerEvent("hm", True)),
        ({"choices": [{"delta": {}, "finish_reason": "stop"}]}, AnswerEvent("", False, "stop")),
        (
            {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
            AnswerEvent(usage=Usage(5, None, 2)),
        ),
        (
            {"choices": [], "usage": {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0}}},
            AnswerEvent(usage=Usage(5, 0, None)),
        ),
        (
            {"choices": [], "usage": {"prompt_tokens": 5, "prompt_tokens_details": None}},
            AnswerEvent(usage=Usage(5)),
        ),
        ({"error": {"message": "out of memory", "code": 500}}, AnswerEvent(error="out of memory")),
        ({"error": "plain"}, AnswerEvent(error="plain")),
    ],
)
def test_events(payload: dict[str, Any], event: AnswerEvent) -> None:
    assert read_event(json.dumps(payload).encode()) == event


def test_done() -> None:
    assert read_event(b" [DONE] ").done


@pytest.mark.parametrize(
    "payload", [b"{", b"\xff\xfe", b"7", b"[]", b'"x"', b'{"choices": 3}', b'{"choices": [3]}']
)
def test_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedEventError):
        read_event(payload)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "text",
                    "content",
                    "usage",
                    "error",
                    "prompt_tokens",
                    "prompt_tokens_details",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_read_or_called_malformed(message: Any) -> None:
    payload = json.dumps(message).encode()
    try:
        assert isinstance(read_event(payload), AnswerEvent)
    except MalformedEventError:
        assert not isinstance(message, dict) or message.get("choices")
    assert isinstance(read_error_body(payload), str)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "too long"}}', "too long"),
        (b'{"object": "error", "message": "too long"}', "too long"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"<html>\n<b>413</b>", "<html> <b>413</b>"),
        (b"", ""),
        (b'{"error": "\\u001b[31m red\\n\\u202e"}', "\ufffd[31m red \ufffd"),
    ],
)
def test_error_bodies(body: bytes, words: str) -> None:
    assert read_error_body(body) == words
    assert len(read_error_body(b"x" * 10_000)) <= 500
