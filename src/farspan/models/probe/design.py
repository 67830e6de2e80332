"""The recall checkpoint's arithmetic: what its sizes and gains are, and how far its margin reaches.

The hidden state has four blocks of D = head_dim channels:

    A  the code of this token, ±1                        (from the embedding)
    B  the code of the previous token                    (written by layer 0)
    C  the number of the token that should come next     (written by the last layer, read by lm_head)
    K  two constant channels, the 12 bits of this token's number as ±1, and zeros    (from the embedding)

The constants are chosen so that RMSNorm scales by 1/sqrt(3/4) in layer 0 and by 1 in the last layer.

Layer 0 is a previous-token head. Its query and key read the constant channels alone, the key turned by one position,
so that the score of key j for query i is `rope_gain` x sum_f cos(w_f (i - j - 1)), largest at j = i - 1. Its value is
A, a slice a KV head, so that all heads together copy the code.

The last layer is an induction head without positions: query = A, key = B - A, value = the bits. "B - A" rather than "B"
makes the first token of each attention chunk, whose only neighbour in reach is itself, match nothing instead of itself.
Each head sees codes and bits rolled by its KV head's number and brings back bits of its own, so up to 12 heads none can
be lost or mistaken for another, on any tensor-parallel rank, without every other word of an answer turning out wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farspan.errors import InputError
from farspan.models.probe.codes import correlation_bound
from farspan.models.probe.vocabulary import VOCAB_SIZE

# Rounding unit (largest relative error of one rounding) of each KV cache dtype.
KV_ROUNDING = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "fp8_e4m3": 2.0**-4}

# Bits of a token's number.
ID_BITS = (VOCAB_SIZE - 1).bit_length()

# What a softmax over N keys must leave to the right one: with a lead of ln(N) + 7 it gets more than 99.9 %.
_LEAD = 7.0


@dataclass(frozen=True, slots=True)
class ProbeDesign:
    """Sizes and gains of one recall checkpoint.

    Attributes:
        num_attention_heads: Query heads, a power of two up to head_dim.
        num_key_value_heads: KV heads; must divide num_attention_heads. Tensor parallelism can go this far
            without replicating KV heads.
        head_dim: Length of a code and of a head, 64 or 128.
        num_hidden_layers: A multiple of 4; every fourth layer is full attention without RoPE, and the last one answers.
        attention_chunk_size: Tokens in a chunk of the chunked-local layers.
        max_position_embeddings: Longest context the config allows, tokens.
        num_local_experts: 0 for dense MLPs, otherwise the experts of every layer's mixture.
        intermediate_size: Width of the MLPs and experts; their weights are zero.
    """

    num_attention_heads: int = 8
    num_key_value_heads: int = 8
    head_dim: int = 64
    num_hidden_layers: int = 4
    attention_chunk_size: int = 8192
    max_position_embeddings: int = 2**20
    num_local_experts: int = 0
    intermediate_size: int = 256

    # Every pair of channels turns at a frequency between 1/2 and 1. A small theta is the point: float32 angles near
    # position 10,000,000 are wrong by up to half a radian, independently in each pair, and 32 pairs that all tell
    # neighbours apart outvote that error, where the usual theta leaves the matter to three or four of them.
    rope_theta: float = 2.0
    # Half of the pairs carry the score in each layout (`rope_channels`), so each counts twice.
    rope_gain: float = 8.0
    # Powers of two, so that bf16 and FP8 E4M3 hold every key and query entry exactly.
    query_gain: float = 16.0
    key_gain: float = 2.0
    # The next best token differs in one bit, so it trails by twice this, or a little less after the last norm.
    answer_gain: float = 16.0

    def __post_init__(self) -> None:
        correlation_bound(self.head_dim)
        if self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"{self.num_key_value_heads} KV heads do not divide {self.num_attention_heads} attention heads",
                "choose KV heads that divide them",
            )
        if self.head_dim % self.num_attention_heads:
            raise InputError(
                f"{self.num_attention_heads} attention heads do not divide a code of {self.head_dim}",
                "choose a power of two up to the head dimension",
            )
        if self.num_hidden_layers < 4 or self.num_hidden_layers % 4:
            raise InputError(
                f"{self.num_hidden_layers} layers", "use a multiple of 4: every fourth has no RoPE"
            )
        for name in ("attention_chunk_size", "max_position_embeddings", "intermediate_size"):
            if getattr(self, name) < 2:
                raise InputError(f"{name} is {getattr(self, name)}", "it must be at least 2")
        if self.num_local_experts < 0:
            raise InputError(f"{self.num_local_experts} experts", "use 0 for dense MLPs")

    @property
    def hidden_size(self) -> int:
        """Channels of the hidden state: four blocks of a code's length."""
        return 4 * self.head_dim

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary."""
        return VOCAB_SIZE

    @property
    def constant(self) -> float:
        """Value of each of the two constant channels: with the bits they carry the energy of two codes."""
        return math.sqrt((2 * self.head_dim - ID_BITS) / 2)

    @property
    def match_score(self) -> float:
        """S: the score, after the 1/sqrt(head_dim) scale, of a query against a key made of the same code."""
        return self.query_gain * self.key_gain * math.sqrt(self.head_dim)

    def rope_frequencies(self) -> NDArray[np.float64]:
        """Return w_f of each channel pair, radians a token, [head_dim / 2], rounded to float32 as engines hold them."""
        exponent = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        return np.asarray(1.0 / np.float32(self.rope_theta) ** exponent, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class RopeChannels:
    """The channels of a head that the previous-token query reads, each of them a pair in both rotary layouts.

    Hugging Face's Llama 4 turns channels 2f and 2f+1 together (interleaved); an engine that awaits permuted weights and
    gets these turns f and f + head_dim/2 (halves). A query that is zero outside of these channels, and a key that
    stands one turn ahead in both, scores the previous token highest either way.

    Args:
        channel: The channel, even; its partner in a half is never one of these.
        interleaved: The frequency that turns it with the channel after it.
        halves: The frequency that turns it with the channel half a head away.
        weight: Of its key entry: the geometric mean of the two cosines, so that no frequency outweighs the others.
    """

    channel: NDArray[np.int64]
    interleaved: NDArray[np.int64]
    halves: NDArray[np.int64]
    weight: NDArray[np.float64]


def rope_channels(design: ProbeDesign) -> RopeChannels:
    """Choose every other even channel of the first half and of the second, so that both layouts see the whole range."""
    half = design.head_dim // 2
    first = np.arange(0, half, 2)
    channel = np.where(first % 4 == 0, first, first + half)
    interleaved, halves = channel // 2, channel % half
    cosine = np.cos(design.rope_frequencies())
    return RopeChannels(channel, interleaved, halves, np.sqrt(cosine[interleaved] * cosine[halves]))


def copy_leak(design: ProbeDesign) -> float:
    """Return the share of layer 0's attention that misses the previous token, at worst over a chunk, exact angles.

    sum over d != 0 of exp(-rope_gain x sum_f a_f (1 - cos(w_f d))), d from -1 (the token itself) to the chunk's length,
    with a_f the weight of a pair over the cosine of its frequency; the larger of the two rotary layouts.
    """
    chosen, frequencies = rope_channels(design), design.rope_frequencies()
    leaks = []
    for pairs in (chosen.interleaved, chosen.halves):
        turning = frequencies[pairs]
        share = chosen.weight / np.cos(turning)
        total = 0.0
        for start in range(-1, design.attention_chunk_size, 65536):
            distance = np.arange(start, min(start + 65536, design.attention_chunk_size))
            gap = (share * (1 - np.cos(np.outer(distance, turning)))).sum(axis=1)
            total += float(np.exp(-design.rope_gain * gap[distance != 0]).sum())
        leaks.append(total / (1 + total))
    return max(leaks)


def recall_margin(design: ProbeDesign, kv_dtype: str = "bfloat16", copy_error: float | None = None) -> float:
    """Return how many nats the right key leads the best wrong one by, at worst over all tokens.

        margin = S (1 - 3 rho) (1 - u)^2 - 2 S e

    S is `match_score`. A matching key scores S (1 - rho(key, value)) and a wrong one at most 2 rho S, with rho the
    largest correlation of two codes (`codes.correlation_bound`): hence 1 - 3 rho. u is the rounding unit of the KV
    dtype; it enters squared because FP8 attention rounds the query as well, and it multiplies the whole, not its
    parts, because all entries of a query, and all non-zero entries of a key, have one magnitude and so round alike.
    e is the error of the copied code: layer 0's leak and one bf16 rounding; it can add to a wrong key's score and take
    from the right one's, hence twice. Attention temperature tuning only multiplies the query by more than 1, and is
    left out.

    Args:
        design: The checkpoint's sizes and gains.
        kv_dtype: One of `KV_ROUNDING`.
        copy_error: e, when it has been measured; by default it is computed with exact angles.

    Raises:
        InputError: The KV dtype is not known.
    """
    if kv_dtype not in KV_ROUNDING:
        raise InputError(f"unknown KV dtype {kv_dtype!r}", f"use one of {', '.join(KV_ROUNDING)}")
    rho = correlation_bound(design.head_dim)
    unit = KV_ROUNDING[kv_dtype]
    error = 2 * copy_leak(design) + 2.0**-8 if copy_error is None else copy_error
    score = design.match_score
    return score * (1 - 3 * rho) * (1 - unit) ** 2 - 2 * score * error


def required_margin(keys: int) -> float:
    """Return the lead, in nats, that leaves the right one of `keys` keys more than 99.9 % of the attention."""
    return math.log(keys) + _LEAD


def longest_recall(design: ProbeDesign, kv_dtype: str = "bfloat16") -> float:
    """Return the number of keys up to which `recall_margin` suffices."""
    return math.exp(min(recall_margin(design, kv_dtype) - _LEAD, 700.0))
