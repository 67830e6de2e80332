"""What goes over the wire: request bodies as bytes, and what one event of an answer says.

Speaks the OpenAI completions and chat completions APIs as vLLM, SGLang and the built-in engine serve them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import orjson

from farspan.printable import printable


class Api(StrEnum):
    """Which API a request uses."""

    COMPLETIONS = "completions"
    CHAT = "chat"

    @property
    def path(self) -> str:
        """The endpoint's path below the server's URL."""
        return "/v1/completions" if self is Api.COMPLETIONS else "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the server reports them; None where it does not say."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class AnswerEvent:
    """What one event of a streamed answer carries.

    `has_token` is true when the event stands for at least one generated token, even one whose text the
    server still holds back; it is false for the opening role event of a chat, for the closing event and
    for the usage event.
    """

    text: str = ""
    has_token: bool = False
    finish_reason: str | None = None
    usage: Usage | None = None
    error: str | None = None
    done: bool = False


class MalformedEventError(Exception):
    """An event's payload is not what an OpenAI-compatible server sends."""


def encode_body(
    api: Api,
    *,
    model: str,
    prompt: str | np.ndarray[Any, np.dtype[np.int32]],
    output_tokens: int,
    ignore_eos: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """Encode a request body once, greedy and streamed, asking for the usage.

    Args:
        api: The API the body is for.
        model: The model's name as the server knows it.
        prompt: Token ids (int32, one dimension, written without making Python integers of them) or text. A
            chat takes text only, as its one user message.
        output_tokens: The most tokens to generate.
        ignore_eos: Ask the server to go on after an end-of-sequence token (vLLM and SGLang know the field).
        extra: Further fields, which win over ours.
    """
    body: dict[str, Any] = {"model": model}
    if api is Api.CHAT:
        if not isinstance(prompt, str):
            raise TypeError("a chat takes text, not token ids")
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt if isinstance(prompt, str) else np.ascontiguousarray(prompt)
    body |= {
        "max_tokens": output_tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if ignore_eos:
        body["ignore_eos"] = True
    body |= dict(extra or {})
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def read_event(payload: bytes) -> AnswerEvent:
    """Read the payload of one event of a completions or chat completions stream.

    Raises:
        MalformedEventError: The payload is neither `[DONE]` nor a JSON object of the expected shape.
    """
    if payload.strip() == b"[DONE]":
        return AnswerEvent(done=True)
    try:
        message = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise MalformedEventError(f"an event that is not JSON: {_shorten(payload)}") from error
    return read_message(message)


def read_message(message: Any) -> AnswerEvent:
    """Read one decoded event, or the whole of an answer that was not streamed.

    Raises:
        MalformedEventError: The message does not have the expected shape.
    """
    if not isinstance(message, dict):
        raise MalformedEventError(f"an event that is not a JSON object: {_shorten(orjson.dumps(message))}")
    error = message.get("error")
    if error is not None:
        return AnswerEvent(error=error_text(message))
    usage = _read_usage(message.get("usage"))
    choices = message.get("choices")
    if not choices:
        return AnswerEvent(usage=usage)
    choice = choices[0] if isinstance(choices, list) else None
    if not isinstance(choice, dict):
        raise MalformedEventError(f"choices of an unknown shape: {_shorten(orjson.dumps(choices))}")
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) else None
    part = choice.get("delta") or choice.get("message")
    if isinstance(part, dict):
        texts = [part.get(key) for key in ("reasoning_content", "reasoning", "content")]
        opening = "role" in part
    else:
        texts = [choice.get("text")]
        opening = False
    text = "".join(piece for piece in texts if isinstance(piece, str))
    # A token whose text is held back (half a character, say) comes as an event with empty text; the
    # opening event of a chat and the closing event have empty text too but stand for no token.
    held_back = any(isinstance(piece, str) for piece in texts) and not opening and finish is None
    return AnswerEvent(text=text, has_token=bool(text) or held_back, finish_reason=finish, usage=usage)


def error_text(message: Any) -> str:
    """Pick the server's own words out of an error answer (OpenAI, vLLM, SGLang and FastAPI shapes)."""
    if isinstance(message, dict):
        for key in ("error", "message", "detail"):
            inner = message.get(key)
            if isinstance(inner, str) and inner:
                return error_text(inner)
            if isinstance(inner, dict):
                return error_text(inner)
            if inner:
                break
    return _shorten(message.encode()) if isinstance(message, str) else _shorten(orjson.dumps(message))


def read_error_body(body: bytes) -> str:
    """Pick the server's own words out of the body of a 4xx or 5xx answer, JSON or not."""
    try:
        return error_text(orjson.loads(body))
    except orjson.JSONDecodeError:
        return _shorten(body)


def _read_usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        cached_tokens=_count(cached),
        output_tokens=_count(usage.get("completion_tokens")),
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shorten(data: bytes, limit: int = 500) -> str:
    text = printable(" ".join(data[: limit * 4].decode("utf-8", "replace").split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"
