"""Choosing the next token from logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from farspan.errors import InputError


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request's tokens are chosen and when it ends; names and meanings are vLLM's.

    Raises:
        InputError: A value is out of range.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 or -1: no limit
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens}", "it must be at least 1")
        if not 0 <= self.temperature <= 100:
            raise InputError(f"temperature is {self.temperature}", "it must be between 0 and 100")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}", "it must be above 0 and at most 1")
        if self.top_k < -1:
            raise InputError(f"top_k is {self.top_k}", "it must be positive, or 0 or -1 for no limit")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < 1e-5

    def generator(self) -> torch.Generator | None:
        """Return the request's own random numbers, or None when it draws none."""
        if self.greedy:
            return None
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def sample(logits: torch.Tensor, params: SamplingParams, generator: torch.Generator | None) -> int:
    """Return a token drawn from float32 logits [vocab]: top_k, then top_p, of the tempered distribution."""
    if generator is None:
        return int(logits.argmax())
    scaled = logits.detach().to("cpu") / params.temperature
    if 0 < params.top_k < scaled.numel():
        scaled = scaled.masked_fill(scaled < scaled.topk(params.top_k).values[-1], -torch.inf)
    probabilities = torch.softmax(scaled, dim=-1)
    if params.top_p < 1:
        descending, order = probabilities.sort(descending=True)
        # A token stays when those before it do not yet make up top_p; the first always does.
        beyond = descending.cumsum(0) - descending >= params.top_p
        probabilities[order[beyond]] = 0
    return int(torch.multinomial(probabilities, 1, generator=generator))
