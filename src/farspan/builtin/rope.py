"""Rotary position embedding as Llama 3 (half-split pairs) and Llama 4 (interleaved pairs) apply it."""

from __future__ import annotations

import math

import torch

from farspan.builtin.model_config import LlamaConfig, RopeScaling


def inverse_frequencies(config: LlamaConfig) -> torch.Tensor:
    """Return radians a token of each channel pair, float32 [head_dim / 2].

    Mirrors transformers' default and llama3 RoPE initialisation (modeling_rope_utils.py).
    """
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponent)
    return frequencies if config.rope_scaling is None else _llama3_scaled(frequencies, config.rope_scaling)


def _llama3_scaled(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    wavelength = 2 * math.pi / frequencies
    longest = scaling.original_max_position_embeddings / scaling.low_freq_factor
    shortest = scaling.original_max_position_embeddings / scaling.high_freq_factor
    slowed = frequencies / scaling.factor
    # With equal factors nothing lies between the two wavelengths, and the blend below would be 0/0.
    span = scaling.high_freq_factor - scaling.low_freq_factor or 1.0
    blend = (scaling.original_max_position_embeddings / wavelength - scaling.low_freq_factor) / span
    between = (1 - blend) * slowed + blend * frequencies
    return torch.where(wavelength > longest, slowed, torch.where(wavelength < shortest, frequencies, between))


def rotation(positions: torch.Tensor, frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and sin, each float32 [tokens, 1, head_dim / 2], of the positions' angles.

    The angle is a float32 product, as in transformers and the engines: beyond a few million tokens it is coarse, and
    a model served with them sees the same coarse angles.
    """
    angle = positions.to(torch.float32)[:, None] * frequencies
    return angle.cos()[:, None, :], angle.sin()[:, None, :]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, interleaved: bool) -> torch.Tensor:
    """Rotate the channel pairs of x [tokens, heads, head_dim].

    Pairs are (0, 1), (2, 3)... when interleaved, otherwise (0, d/2), (1, d/2 + 1)...
    """
    wide = x.float()
    if interleaved:
        even, odd = wide[..., 0::2], wide[..., 1::2]
    else:
        even, odd = wide.chunk(2, dim=-1)
    turned = (even * cos - odd * sin, even * sin + odd * cos)
    joined = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    return joined.to(x.dtype)
