"""The shapes of the built-in server's answers: OpenAI's objects for completions and chat, whole and in pieces."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class AnswerShape:
    """Builds the JSON objects of one answer.

    Args:
        chat: Whether it answers /v1/chat/completions.
        model: The served name.
        prompt_tokens: Tokens of the prompt.
    """

    chat: bool
    model: str
    prompt_tokens: int
    created: int = field(default_factory=lambda: int(time.time()))
    number: str = field(default_factory=lambda: uuid.uuid4().hex)

    def usage(self, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
        """Return the usage report; the prompt's cached tokens are always said, also when there are none."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }

    def whole(
        self, text: str, finish_reason: str, usage: dict[str, Any], token_ids: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Return an answer that is not streamed, with its token ids where they are asked for."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        if token_ids is not None:
            choice["token_ids"] = list(token_ids)
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": usage}

    def piece(
        self,
        text: str,
        finish_reason: str | None,
        *,
        first: bool = False,
        token_ids: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Return one event of a stream, with its token ids where they are asked for."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        if self.chat:
            choice["delta"] = {"role": "assistant", "content": text} if first else {"content": text}
        else:
            choice["text"] = text
        if token_ids is not None:
            choice["token_ids"] = list(token_ids)
        return {**self._head(self._stream_kind), "choices": [choice]}

    def usage_piece(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Return the event that carries the usage report alone."""
        return {**self._head(self._stream_kind), "choices": [], "usage": usage}

    @property
    def _stream_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.number}", "object": kind, "created": self.created, "model": self.model}


def error_body(message: str, kind: str, status: int) -> dict[str, Any]:
    """Return OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}
