"""What a prompt and a decoded token cost one GPU in operations and bytes, from the layers alone."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from farspan.models.spec import AttentionKind, LayerSpec, ModelSpec
from farspan.models.tensors import WeightPart
from farspan.models.weights import active_parameters, rank_weight_bytes, total_parameters


class PrefillWork(NamedTuple):
    """Operations (or seconds, see `PrefillRates`) of one rank for a whole prompt.

    Args:
        linear: Multiply-adds of all weights, two operations each; the output head once.
        attention: Layers that attend to everything: quadratic in the prompt.
        local: Chunked, windowed, sparse and recurrent layers: linear in the prompt.
    """

    linear: float
    attention: float
    local: float


class PrefillRates(NamedTuple):
    """What a prompt costs one rank, whatever its length: operations, or seconds once divided by a peak.

    Args:
        linear: A prompt token.
        attention: A query and a key it sees, in all unbounded layers.
        local: The same in the others: (rate, kind, window).
    """

    linear: float
    attention: float
    local: tuple[tuple[float, AttentionKind, int], ...]

    def over(self, linear_peak: float, attention_peak: float) -> PrefillRates:
        """Seconds, from operations and operations a second."""
        local = tuple((rate / attention_peak, kind, window) for rate, kind, window in self.local)
        return PrefillRates(self.linear / linear_peak, self.attention / attention_peak, local)

    def work(self, tokens: int) -> PrefillWork:
        """The cost of a prompt of `tokens`; causal attention over N tokens has N^2/2 pairs."""
        windowed = 0.0
        for rate, kind, window in self.local:
            windowed += rate * _local_pairs(kind, window, tokens)
        return PrefillWork(self.linear * tokens, self.attention * tokens * tokens / 2, windowed)


class DecodeRates(NamedTuple):
    """What one rank reads for a decoded token: bytes, or seconds once divided by a bandwidth.

    Args:
        kept: (a kept token, most tokens kept) over all layers.
        state: The recurrent state.
        weights: The weights that work on a token.
    """

    kept: tuple[tuple[float, float], ...]
    state: float
    weights: float

    def over(self, bandwidth: float) -> DecodeRates:
        """Seconds, from bytes and bytes a second."""
        kept = tuple((rate / bandwidth, most) for rate, most in self.kept)
        return DecodeRates(kept, self.state / bandwidth, self.weights / bandwidth)

    def kv(self, context: int) -> float:
        """The share of the cache and the state at `context` tokens."""
        read = self.state
        for rate, most in self.kept:
            read += rate * (context if context < most else most)
        return read


@lru_cache(maxsize=256)
def prefill_rates(model: ModelSpec, tp: int) -> PrefillRates:
    """Operations on one of `tp` ranks.

    A head attends to a key with 2 (key size + value size) operations (12 layers x 5 heads x 512 x N^2/2 =
    1.54e16 at N = 1e6 for one rank of Scout at TP 8).
    """
    return PrefillRates(2.0 * _linear_parameters(model) / tp, *_attention_coefficients(model, tp))


@lru_cache(maxsize=256)
def decode_rates(model: ModelSpec, tp: int, width: int) -> DecodeRates:
    """Bytes one rank reads for one decoded token, `width` bytes a cached value."""
    rates: dict[float, float] = {}
    state = 0.0
    for layer in model.layers:
        state += layer.state_bytes(tp)
        if layer.kv_tokens_kept(1) == 0:
            continue
        most = math.inf if layer.window is None else float(layer.window)
        if layer.indexer is not None:
            rates[most] = rates.get(most, 0.0) + layer.indexer_entry_bytes
            most = min(most, float(layer.indexer.top_k))
        rates[most] = rates.get(most, 0.0) + layer.kv_entry_bytes(width, tp)
    kept = tuple((rate, most) for most, rate in rates.items())
    return DecodeRates(kept, state, active_weight_bytes(model, tp))


def _linear_parameters(model: ModelSpec) -> int:
    """Parameters a prompt token is multiplied with; the output head runs on the last token only."""
    active = active_parameters(model)
    return (
        active.total - active.by_part.get(WeightPart.LM_HEAD, 0) - active.by_part.get(WeightPart.EMBEDDING, 0)
    )


def active_weight_bytes(model: ModelSpec, tp: int, tokens: int = 1) -> float:
    """Weight bytes one rank reads for a step of `tokens` tokens.

    Each part's bytes times the share that works on at least one of them, 1 - (1 - share of one token)^tokens: experts
    are chosen independently and alike.
    """
    bytes_by_part, active, total = (
        rank_weight_bytes(model, tp).by_part,
        active_parameters(model).by_part,
        total_parameters(model).by_part,
    )
    return sum(
        bytes_by_part.get(part, 0) * (1 - (1 - count / total[part]) ** tokens)
        for part, count in active.items()
        if total.get(part)
    )


def _attention_coefficients(
    model: ModelSpec, tp: int
) -> tuple[float, tuple[tuple[float, AttentionKind, int], ...]]:
    """Operations a pair of tokens costs in all unbounded layers; (operations, kind, window) of the others."""
    full = 0.0
    local: dict[tuple[AttentionKind, int], float] = {}
    for layer in model.layers:
        rate, kind, window = _pair_operations(layer, tp), layer.attention, layer.window or 0
        if layer.indexer is not None:
            index = 2.0 * layer.indexer.num_heads * layer.indexer.head_dim
            full += index if kind is AttentionKind.MLA else index / tp
            kind, window = AttentionKind.SLIDING_WINDOW, layer.indexer.top_k
        elif kind is AttentionKind.LINEAR:
            window = 1
        if window:
            local[kind, window] = local.get((kind, window), 0.0) + rate
        else:
            full += rate
    return full, tuple((rate, kind, window) for (kind, window), rate in local.items())


def _pair_operations(layer: LayerSpec, tp: int) -> float:
    """Operations one query token and one key cost in one layer on one rank."""
    heads = layer.num_heads / tp
    if layer.attention is AttentionKind.LINEAR:
        # Reading and updating a head's state matrix: four operations an element.
        return sum(4.0 * state.bytes(tp) / state.dtype_bytes for state in layer.states)
    if layer.latent is not None:
        latent = layer.latent
        return 2.0 * heads * (latent.nope_dim + latent.rope_dim + latent.value_dim)
    value = layer.value_head_dim or layer.head_dim
    return 2.0 * heads * (layer.head_dim + value)


def _local_pairs(kind: AttentionKind, window: int, tokens: int) -> float:
    """Query-key pairs of a prompt: a chunk's queries see half of it on average, a full window's all of it."""
    if kind is AttentionKind.CHUNKED_LOCAL:
        chunks, rest = divmod(tokens, window)
        return (chunks * window * window + rest * rest) / 2
    if tokens <= window:
        return tokens * tokens / 2
    return window * window / 2 + (tokens - window) * float(window)
