"""The recall checkpoint's tensors, as numpy float32 arrays named as Hugging Face's Llama4ForCausalLM names them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farspan.models.probe.codes import gold_codes
from farspan.models.probe.design import ID_BITS, ProbeDesign, rope_channels

Tensor = NDArray[np.float32]


def probe_tensors(design: ProbeDesign) -> dict[str, Tensor]:
    """Return every tensor of the checkpoint by its Hugging Face name, linear weights as [out, in]."""
    code = gold_codes(design.vocab_size, design.head_dim).astype(np.float32)
    d, hidden = design.head_dim, design.hidden_size
    bits = _token_bits(design.vocab_size)
    embedding = np.zeros((design.vocab_size, hidden), np.float32)
    embedding[:, :d] = code
    embedding[:, 3 * d : 3 * d + 2] = design.constant
    embedding[:, _bits_at(design) : _bits_at(design) + ID_BITS] = bits
    head = np.zeros((design.vocab_size, hidden), np.float32)
    for channel, bit in enumerate(_answer_bits(design)):
        head[:, 2 * d + channel] = design.answer_gain * bits[:, bit]
    tensors = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": np.ones(hidden, np.float32),
        "lm_head.weight": head,
    }
    last = design.num_hidden_layers - 1
    for layer in range(design.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        attention = _zero_attention(design)
        if layer == 0:
            _previous_token_head(design, attention)
        elif layer == last:
            _induction_head(design, attention)
        tensors |= {f"{prefix}self_attn.{name}.weight": tensor for name, tensor in attention.items()}
        tensors |= {f"{prefix}feed_forward.{name}": tensor for name, tensor in _zero_mlp(design).items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{norm}.weight"] = np.ones(hidden, np.float32)
    return tensors


def _zero_attention(design: ProbeDesign) -> dict[str, Tensor]:
    queries = design.num_attention_heads * design.head_dim
    keys = design.num_key_value_heads * design.head_dim
    hidden = design.hidden_size
    return {
        "q_proj": np.zeros((queries, hidden), np.float32),
        "k_proj": np.zeros((keys, hidden), np.float32),
        "v_proj": np.zeros((keys, hidden), np.float32),
        "o_proj": np.zeros((hidden, queries), np.float32),
    }


def _zero_mlp(design: ProbeDesign) -> dict[str, Tensor]:
    hidden, width, experts = design.hidden_size, design.intermediate_size, design.num_local_experts

    def mlp(prefix: str) -> dict[str, Tensor]:
        return {
            f"{prefix}gate_proj.weight": np.zeros((width, hidden), np.float32),
            f"{prefix}up_proj.weight": np.zeros((width, hidden), np.float32),
            f"{prefix}down_proj.weight": np.zeros((hidden, width), np.float32),
        }

    if not experts:
        return mlp("")
    return mlp("shared_expert.") | {
        "router.weight": np.zeros((experts, hidden), np.float32),
        "experts.gate_up_proj": np.zeros((experts, hidden, 2 * width), np.float32),
        "experts.down_proj": np.zeros((experts, width, hidden), np.float32),
    }


def _previous_token_head(design: ProbeDesign, attention: dict[str, Tensor]) -> None:
    """Write layer 0: query and key from the constant channel, the key turned one position ahead; A goes to B.

    The key is one turn ahead whether the engine pairs channels 2f and 2f+1 or f and f + head_dim/2 (`RopeChannels`): a
    channel's partner in one layout is not read by the query in the other.
    """
    d = design.head_dim
    norm = np.sqrt(4 / 3)  # what RMSNorm multiplies by before layer 0
    constant = 3 * d
    amplitude = np.sqrt(design.rope_gain * np.sqrt(d)) / (norm * design.constant)
    chosen = rope_channels(design)
    tangent = np.tan(design.rope_frequencies())
    key = np.zeros(d)
    key[chosen.channel] = chosen.weight
    key[chosen.channel + 1] = chosen.weight * tangent[chosen.interleaved]
    # A channel of the second half is the imaginary part of its pair: turned ahead, the real part becomes negative.
    sign = np.where(chosen.channel < d // 2, 1.0, -1.0)
    key[(chosen.channel + d // 2) % d] = sign * chosen.weight * tangent[chosen.halves]
    for head in range(design.num_attention_heads):
        attention["q_proj"][head * d + chosen.channel, constant] = amplitude
    for head in range(design.num_key_value_heads):
        attention["k_proj"][head * d : (head + 1) * d, constant] = amplitude * key
    group = design.num_attention_heads // design.num_key_value_heads
    part, share = d // design.num_key_value_heads, d // design.num_attention_heads
    for head in range(design.num_key_value_heads):
        channel = np.arange(part)
        attention["v_proj"][head * d + channel, head * part + channel] = 1 / norm
        for member in range(group):
            own = member * share + np.arange(share)
            attention["o_proj"][d + head * part + own, (head * group + member) * d + own] = 1.0


def _induction_head(design: ProbeDesign, attention: dict[str, Tensor]) -> None:
    """Write the last layer: query A, key B - A, value the bits, all rolled by the KV head's number; bits go to C."""
    d = design.head_dim
    channel, bit = np.arange(d), np.arange(ID_BITS)
    group = design.num_attention_heads // design.num_key_value_heads
    for head in range(design.num_key_value_heads):
        rolled = np.roll(channel, head)
        attention["k_proj"][head * d + channel, d + rolled] = design.key_gain
        attention["k_proj"][head * d + channel, rolled] = -design.key_gain
        attention["v_proj"][head * d + (bit + head) % d, _bits_at(design) + bit] = 1.0
        for member in range(group):
            query = (head * group + member) * d
            attention["q_proj"][query + channel, rolled] = design.query_gain
    for answer, bit_number in enumerate(_answer_bits(design)):
        query_head = answer % design.num_attention_heads
        value = (bit_number + query_head // group) % d
        attention["o_proj"][2 * d + answer, query_head * d + value] = 1.0


def _token_bits(vocab_size: int) -> Tensor:
    """Return the bits of each token's number as ±1, [vocab, ID_BITS]."""
    number = np.arange(vocab_size)[:, None] >> np.arange(ID_BITS)
    return np.where(number & 1, 1.0, -1.0).astype(np.float32)


def _bits_at(design: ProbeDesign) -> int:
    """Return the first of the hidden channels that hold this token's bits: after the constants."""
    return 3 * design.head_dim + 2


def _answer_bits(design: ProbeDesign) -> list[int]:
    """Return which bit each channel of C holds: every bit once, and again where there are more heads than bits."""
    return [channel % ID_BITS for channel in range(max(ID_BITS, design.num_attention_heads))]
