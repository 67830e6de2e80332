"""The HTTP bodies the built-in server accepts: OpenAI's, and vLLM's additions where they are common.

A field that is not here is refused by name rather than ignored: an option that silently does nothing costs more time
than an error.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from farspan.builtin.sampling_params import SamplingParams
from farspan.errors import InputError


class StreamOptions(BaseModel):
    """What a stream carries besides tokens."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class Sampling(BaseModel):
    """What completions and chat completions have in common."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    n: Literal[1] = 1
    stop: str | list[str] | None = None
    stop_token_ids: list[int] = Field(default_factory=list)
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None  # OpenAI's tag for abuse reports; nothing depends on it
    cache_salt: str | None = None  # vLLM's: prefixes are shared only between requests of the same salt

    @property
    def namespace(self) -> bytes:
        """What keeps this request's prefixes apart from others'."""
        return (self.cache_salt or "").encode()

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)

    def params(self, max_tokens: int) -> SamplingParams:
        """Return the engine's parameters.

        Raises:
            InputError: A value is out of range.
        """
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
        )


class CompletionRequest(Sampling):
    """The body of /v1/completions; the prompt is a text or a list of token ids, taken out beforehand."""

    max_tokens: int = 16
    add_special_tokens: bool = True


class ChatMessage(BaseModel):
    """One turn of a conversation; what else it holds is the chat template's business."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[dict[str, Any]]


class ChatCompletionRequest(Sampling):
    """The body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class TokenizeRequest(BaseModel):
    """The body of /tokenize: a text or a conversation."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = True


class DetokenizeRequest(BaseModel):
    """The body of /detokenize."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    tokens: list[int]


def token_ids(prompt: list[Any], vocab_size: int) -> NDArray[np.int32]:
    """Return a prompt of token ids as an array, checked.

    Raises:
        InputError: It is not one list of ids of this vocabulary.
    """
    try:
        ids = np.asarray(prompt)
    except ValueError:
        ids = np.empty(0, dtype=object)
    if ids.ndim != 1 or not (ids.size == 0 or np.issubdtype(ids.dtype, np.integer)):
        raise InputError("the prompt is neither a text nor a list of token ids", "send one prompt a request")
    if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
        raise InputError(
            f"the prompt has a token id outside 0 to {vocab_size - 1}", "tokenize with this model's tokenizer"
        )
    return ids.astype(np.int32)
