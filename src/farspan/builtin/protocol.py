"""The HTTP bodies the built-in server accepts: OpenAI's, and vLLM's additions where they are common.

A field that is not here is refused by name rather than ignored: an option that silently does nothing costs more time
than an error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from farspan.builtin.sampling_params import SamplingParams
from farspan.errors import InputError

_LARGEST_SEED = 2**63 - 1
_MOST_TOKENS = 2**31 - 1
_Name = Annotated[str, Field(max_length=1024)]
_StopText = Annotated[str, Field(max_length=256)]
_TokenId = Annotated[int, Field(ge=0, lt=2**31)]
_MaxTokens = Annotated[int, Field(ge=1, le=_MOST_TOKENS)]


def _integer(value: Any) -> Any:
    if type(value) is not int:  # to a Literal, true and 1.0 are 1
        raise ValueError("Input should be an integer")
    return value


class RequestFields(BaseModel):
    """A body, or a part of one: types are not converted, numbers are finite, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: _Name | None = None


class StreamOptions(BaseModel):
    """What a stream carries besides tokens."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class GenerationFields(RequestFields):
    """What completions and chat completions have in common.

    Types are OpenAI's, and vLLM's for its additions; the ranges are vLLM's. Lists and texts are bounded, because each
    token's cost grows with them.
    """

    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    seed: int | None = Field(None, ge=-_LARGEST_SEED - 1, le=_LARGEST_SEED)
    n: Annotated[Literal[1], BeforeValidator(_integer)] = 1
    stop: _StopText | Annotated[list[_StopText], Field(max_length=16)] | None = None
    stop_token_ids: list[_TokenId] = Field(default_factory=list, max_length=1024)
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False  # vLLM's; of the answer alone: the prompt's are the client's own
    user: _Name | None = None  # OpenAI's tag for abuse reports; nothing depends on it
    # vLLM's: prefixes are shared only between requests of the same salt
    cache_salt: Annotated[str, Field(min_length=1, max_length=1024)] | None = None

    @property
    def namespace(self) -> str:
        """What keeps this request's prefixes apart from others'."""
        return self.cache_salt or ""

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


class CompletionRequest(GenerationFields):
    """The body of /v1/completions; the prompt is a text or a list of token ids, taken out beforehand."""

    max_tokens: _MaxTokens = 16
    add_special_tokens: bool = True


class ChatMessage(BaseModel):
    """One turn of a conversation; what else it holds is the chat template's business."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Annotated[str, Field(max_length=64)]
    content: str | list[dict[str, Any]]


class ChatFields(GenerationFields):
    """The body of /v1/chat/completions without its messages."""

    max_tokens: _MaxTokens | None = None
    max_completion_tokens: _MaxTokens | None = None


class ChatCompletionRequest(ChatFields):
    """The body of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)


class TokenizeRequest(RequestFields):
    """The body of /tokenize: a text or a conversation."""

    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    add_special_tokens: bool = True


class DetokenizeRequest(RequestFields):
    """The body of /detokenize; its `tokens` are taken out beforehand."""


def token_ids(prompt: list[Any], vocab_size: int) -> NDArray[np.int32]:
    """Return a prompt of token ids as an array, checked.

    Raises:
        InputError: It is not one list of ids of this vocabulary.
    """
    # Types first: an array of mixed texts would take as much memory for each as for the longest.
    if set(map(type, prompt)) - {int}:
        raise InputError("the prompt is neither a text nor a list of token ids", "send one prompt a request")
    if prompt and (min(prompt) < 0 or max(prompt) >= vocab_size):
        raise InputError(
            f"the prompt has a token id outside 0 to {vocab_size - 1}", "tokenize with this model's tokenizer"
        )
    return np.array(prompt, np.int32)
