"""What is done to a request's body before the engine sees it: parsing, checking, templating, tokenizing.

All of it may take long, or be hostile, and is done in a process of its own: see `farspan.builtin.text_pool`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from farspan.builtin.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    token_ids,
)
from farspan.builtin.server_tokenizer import ChatTokenizer
from farspan.errors import InputError
from farspan.models.template_deadline import TemplateDeadline

Body = TypeVar("Body", bound=BaseModel)

TEMPLATE_BASE_S = 2.0
TEMPLATE_S_PER_MIB = 1.0


class TextJob(StrEnum):
    """What is to be done with a body."""

    COMPLETION = "completion"
    CHAT = "chat"
    TOKENIZE = "tokenize"
    DETOKENIZE = "detokenize"


@dataclass(frozen=True, slots=True)
class TextReply:
    """What came of a body.

    Attributes:
        fields: The request's parameters, without its text.
        payload: Its token ids, int32; or the answer itself, JSON.
    """

    fields: dict[str, Any]
    payload: NDArray[np.int32] | bytes


class TextWork:
    """Does the jobs of one server.

    Args:
        tokenizer: The checkpoint's.
        vocab_size: Token ids are below it.
        max_model_len: What /tokenize says of the server.
    """

    def __init__(self, tokenizer: ChatTokenizer, vocab_size: int, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len

    def run(self, job: TextJob, body: memoryview) -> TextReply:
        """Do a job.

        Raises:
            InputError: The body is not one of its route; it says why.
            TemplateTimeoutError: The chat template took too long.
        """
        raw = _json(body)
        match job:
            case TextJob.COMPLETION:
                return self._completion(raw)
            case TextJob.CHAT:
                return self._chat(raw, len(body))
            case TextJob.TOKENIZE:
                return self._tokenize(raw, len(body))
            case TextJob.DETOKENIZE:
                return self._detokenize(raw)

    def _completion(self, raw: dict[str, Any]) -> TextReply:
        prompt = raw.pop("prompt", None)
        body = _parse(CompletionRequest, raw)
        if isinstance(prompt, list):
            ids = token_ids(prompt, self._vocab_size)
        elif isinstance(prompt, str):
            ids = self._tokenizer.encode(prompt, add_special_tokens=body.add_special_tokens)
        else:
            raise InputError(
                "the prompt is neither a text nor a list of token ids", "send one prompt a request"
            )
        return TextReply(body.model_dump(exclude_unset=True), ids)

    def _chat(self, raw: dict[str, Any], size: int) -> TextReply:
        body = _parse(ChatCompletionRequest, raw)
        fields = body.model_dump(exclude_unset=True, exclude={"messages"})
        return TextReply(fields, self._encode_chat(body, size))

    def _tokenize(self, raw: dict[str, Any], size: int) -> TextReply:
        body = _parse(TokenizeRequest, raw)
        if (body.prompt is None) == (body.messages is None):
            raise InputError("send either prompt or messages")
        if body.messages is not None:
            ids = self._encode_chat(body, size)
        else:
            ids = self._tokenizer.encode(body.prompt or "", add_special_tokens=body.add_special_tokens)
        answer = {"count": len(ids), "max_model_len": self._max_model_len, "tokens": ids}
        return TextReply({}, orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))

    def _detokenize(self, raw: dict[str, Any]) -> TextReply:
        tokens = raw.pop("tokens", None)
        _parse(DetokenizeRequest, raw)
        if not isinstance(tokens, list):
            raise InputError("tokens: a list of token ids is needed")
        ids = token_ids(tokens, self._vocab_size)
        text = self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        return TextReply({}, orjson.dumps({"prompt": text}))

    def _encode_chat(self, body: ChatCompletionRequest | TokenizeRequest, size: int) -> NDArray[np.int32]:
        messages = [message.model_dump() for message in body.messages or ()]
        with TemplateDeadline(TEMPLATE_BASE_S + TEMPLATE_S_PER_MIB * size / 2**20):
            text = self._tokenizer.render(messages)
        # The template writes the special tokens itself.
        return self._tokenizer.encode(text, add_special_tokens=False)


def _json(body: memoryview) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError("the body is not a JSON object")
    return value


def _parse(kind: type[Body], raw: dict[str, Any]) -> Body:
    try:
        # null means "not given", as OpenAI's clients send it
        return kind.model_validate({name: value for name, value in raw.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:100]
        if first["type"] == "extra_forbidden":
            raise InputError(
                f"the built-in engine does not know the field {field!r}", "leave it out"
            ) from error
        raise InputError(f"{field}: {' '.join(first['msg'].split())[:300]}") from error
