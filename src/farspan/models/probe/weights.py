"""The recall checkpoint's tensors, as numpy float32 arrays named as Hugging Face's Llama4ForCausalLM names them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farspan.models.probe.codes import gold_codes
from farspan.models.probe.design import ProbeDesign

Tensor = NDArray[np.float32]


def probe_tensors(design: ProbeDesign) -> dict[str, Tensor]:
    """Return every tensor of the checkpoint by its Hugging Face name, linear weights as [out, in]."""
    code = gold_codes(design.vocab_size, design.head_dim).astype(np.float32)
    d, hidden = design.head_dim, design.hidden_size
    embedding = np.zeros((design.vocab_size, hidden), np.float32)
    embedding[:, :d] = code
    embedding[:, 3 * d : 3 * d + 2] = design.constant
    head = np.zeros((design.vocab_size, hidden), np.float32)
    head[:, 2 * d : 3 * d] = design.answer_gain * code
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
    """Write layer 0: query and key from the constant channel, the key turned one position ahead; A goes to B."""
    d = design.head_dim
    norm = np.sqrt(4 / 3)  # what RMSNorm multiplies by before layer 0
    constant = 3 * d
    amplitude = np.sqrt(design.rope_gain * np.sqrt(d)) / (norm * design.constant)
    angle = design.rope_frequencies()
    even, odd = np.arange(0, d, 2), np.arange(1, d, 2)
    for head in range(design.num_attention_heads):
        attention["q_proj"][head * d + even, constant] = amplitude
    for head in range(design.num_key_value_heads):
        attention["k_proj"][head * d + even, constant] = amplitude * np.cos(angle)
        attention["k_proj"][head * d + odd, constant] = amplitude * np.sin(angle)
    _carry_code(design, attention, gain=1 / norm, target=d)


def _induction_head(design: ProbeDesign, attention: dict[str, Tensor]) -> None:
    """Write the last layer: query A, key B - A, each rolled by the KV head's number; A of the match goes to C."""
    d = design.head_dim
    channel = np.arange(d)
    group = design.num_attention_heads // design.num_key_value_heads
    for head in range(design.num_key_value_heads):
        rolled = np.roll(channel, head)
        attention["k_proj"][head * d + channel, d + rolled] = design.key_gain
        attention["k_proj"][head * d + channel, rolled] = -design.key_gain
        for member in range(group):
            query = (head * group + member) * d
            attention["q_proj"][query + channel, rolled] = design.query_gain
    _carry_code(design, attention, gain=1.0, target=2 * d)


def _carry_code(design: ProbeDesign, attention: dict[str, Tensor], gain: float, target: int) -> None:
    """Have the values carry A, a slice a KV head, and o_proj write each query head's share of it at `target`."""
    d = design.head_dim
    group = design.num_attention_heads // design.num_key_value_heads
    part = d // design.num_key_value_heads
    share = d // design.num_attention_heads
    for head in range(design.num_key_value_heads):
        channel = np.arange(part)
        attention["v_proj"][head * d + channel, head * part + channel] = gain
        for member in range(group):
            own = member * share + np.arange(share)
            attention["o_proj"][target + head * part + own, (head * group + member) * d + own] = 1.0
