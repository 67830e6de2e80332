"""What goes over the wire: request bodies as bytes, and what one event of an answer says.

Speaks the OpenAI completions and chat completions APIs as vLLM, SGLang and the built-in engine serve them, and
SGLang's own /generate (sglang 0.5.6 to 0.5.23 srt/managers/tokenizer_manager.py: `text`, `output_ids`, `meta_info`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import orjson

from farspan.escape_terminal import printable


class Api(StrEnum):
    """Which API a request uses."""

    COMPLETIONS = "completions"
    CHAT = "chat"
    GENERATE = "generate"  # SGLang's own

    @property
    def path(self) -> str:
        """The endpoint's path below the server's URL."""
        return _PATHS[self]


_PATHS = {
    Api.COMPLETIONS: "/v1/completions",
    Api.CHAT: "/v1/chat/completions",
    Api.GENERATE: "/generate",
}

_TOKEN_ID = "token_id:"


class PromptAs(StrEnum):
    """How a prompt is sent; a chat always takes text."""

    IDS = "ids"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts, and the seconds spent in the queue, as the server reports them; None where it does not say."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    queue_s: float | None = None


@dataclass(frozen=True, slots=True)
class AnswerEvent:
    """What one event of a streamed answer carries.

    `has_token` is true when the event stands for at least one generated token, even one whose text the
    server still holds back; it is false for the opening role event of a chat, for the closing event and
    for the usage event. `whole` is true when `text` is the whole reply so far rather than its next piece, as
    SGLang's /generate sends it, and `token_ids` with it: those are not checked yet, since all of them come again with
    every token. `token_ids` is empty where the server does not tell them.
    """

    text: str = ""
    has_token: bool = False
    finish_reason: str | None = None
    usage: Usage | None = None
    error: str | None = None
    done: bool = False
    whole: bool = False
    token_ids: tuple[Any, ...] = ()


class MalformedEventError(Exception):
    """An event's payload is not what an OpenAI-compatible server sends."""


def frame_body(
    api: Api,
    *,
    model: str,
    prompt_as: PromptAs,
    output_tokens: int,
    ignore_eos: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> tuple[bytes, bytes]:
    """Encode all of a request body but its prompt: what stands before the prompt's JSON, and after it.

    The request is greedy and streamed, and asks for the usage.

    Args:
        api: The API the body is for.
        model: The model's name as the server knows it; /generate has no such field.
        prompt_as: Whether the prompt will be an array of ids or a string. A chat takes text only, as its one user
            message.
        output_tokens: The most tokens to generate.
        ignore_eos: Ask the server to go on after an end-of-sequence token (vLLM and SGLang know the field).
        extra: Further fields, which win over ours.
    """
    if api is Api.CHAT and prompt_as is PromptAs.IDS:
        raise TypeError("a chat takes text, not token ids")
    body: dict[str, Any]
    if api is Api.GENERATE:
        sampling: dict[str, Any] = {"max_new_tokens": output_tokens, "temperature": 0.0}
        if ignore_eos:
            sampling["ignore_eos"] = True
        body = {"stream": True, "sampling_params": sampling}
        given = dict(extra or {})
        sampling |= given.pop("sampling_params", {})
        body |= given
        field = "input_ids" if prompt_as is PromptAs.IDS else "text"
    else:
        body = {
            "model": model,
            "max_tokens": output_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if ignore_eos:
            body["ignore_eos"] = True
        body |= dict(extra or {})
        field = "prompt"
    start = orjson.dumps(body)[:-1]
    if api is Api.CHAT:
        return start + b',"messages":[{"role":"user","content":', b"}]}"
    return start + b',"' + field.encode() + b'":', b"}"


def encode_body(
    api: Api,
    *,
    model: str,
    prompt: str | np.ndarray[Any, np.dtype[np.int32]],
    output_tokens: int,
    ignore_eos: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """Encode a whole request body, for prompts short enough to be held in memory.

    Args:
        api: The API the body is for.
        model: The model's name as the server knows it.
        prompt: Token ids (int32, one dimension) or text.
        output_tokens: The most tokens to generate.
        ignore_eos: Ask the server to go on after an end-of-sequence token.
        extra: Further fields, which win over ours.
    """
    prompt_as = PromptAs.TEXT if isinstance(prompt, str) else PromptAs.IDS
    before, after = frame_body(
        api, model=model, prompt_as=prompt_as, output_tokens=output_tokens, ignore_eos=ignore_eos, extra=extra
    )
    value = prompt if isinstance(prompt, str) else np.ascontiguousarray(prompt)
    return before + orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY) + after


def read_event(payload: bytes) -> AnswerEvent:
    """Read the payload of one event of a stream of any of the APIs.

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
    meta = message.get("meta_info")
    if isinstance(meta, dict):
        return _read_generated(message, meta)
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
    return AnswerEvent(
        text=text,
        has_token=bool(text) or held_back,
        finish_reason=finish,
        usage=usage,
        token_ids=_read_token_ids(choice),
    )


def check_token_ids(ids: Iterable[Any]) -> tuple[int, ...]:
    """Return ids as they are; none where one of them is no id."""
    checked = tuple(ids)
    return checked if all(_count(one) is not None for one in checked) else ()


def _read_token_ids(choice: dict[str, Any]) -> tuple[int, ...]:
    """Read the ids of an event's tokens, where they were asked for: as such, or in place of their texts (vLLM)."""
    ids = choice.get("token_ids")
    if ids is None and isinstance(logprobs := choice.get("logprobs"), dict):
        named = logprobs.get("tokens")
        ids = [
            int(name.removeprefix(_TOKEN_ID))
            for name in (named if isinstance(named, list) else ())
            if isinstance(name, str) and name.startswith(_TOKEN_ID) and name[len(_TOKEN_ID) :].isdecimal()
        ]
    return check_token_ids(ids) if isinstance(ids, list) else ()


def _read_generated(message: dict[str, Any], meta: dict[str, Any]) -> AnswerEvent:
    """Read an event of SGLang's /generate: the reply so far, or with --incremental-streaming-output its next piece."""
    reason = meta.get("finish_reason")
    finish = reason.get("type") if isinstance(reason, dict) else reason
    if finish == "abort" and isinstance(reason, dict):
        return AnswerEvent(
            error=_shorten(str(reason.get("message") or "the server gave the request up").encode())
        )
    usage = Usage(
        prompt_tokens=_count(meta.get("prompt_tokens")),
        cached_tokens=_count(meta.get("cached_tokens")),
        output_tokens=_count(meta.get("completion_tokens")),
        queue_s=_seconds(meta.get("queue_time")),
    )
    text, ids = message.get("text"), message.get("output_ids")
    text = text if isinstance(text, str) else ""
    listed = tuple(ids) if isinstance(ids, list) else ()
    whole = not isinstance(ids, list) or usage.output_tokens is None or len(ids) == usage.output_tokens
    return AnswerEvent(
        text=text,
        has_token=bool(text) or bool(listed) or bool(usage.output_tokens),
        finish_reason=finish if isinstance(finish, str) else None,
        usage=usage,
        whole=whole,
        token_ids=listed if whole else check_token_ids(listed),
    )


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
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _seconds(value: Any) -> float | None:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        else None
    )


def _shorten(data: bytes, limit: int = 500) -> str:
    text = printable(" ".join(data[: limit * 4].decode("utf-8", "replace").split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"
