"""Choosing the next token from logits."""

from __future__ import annotations

import torch

from farspan.builtin.sampling_params import SamplingParams


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
        # A token stays when those before it do not yet make up top_p. The first always does, also where top_p is
        # too small for float32 and compares like 0.
        beyond = descending.cumsum(0) - descending >= params.top_p
        beyond[0] = False
        probabilities[order[beyond]] = 0
    return int(torch.multinomial(probabilities, 1, generator=generator))
