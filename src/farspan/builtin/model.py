"""Llama 3 and Llama 4 text models as a forward pass over a batch of sequence pieces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional

from farspan.builtin.attention import attend
from farspan.builtin.load_weights import Tensors
from farspan.builtin.model_config import LayerConfig, LlamaConfig, read_config
from farspan.builtin.rope import inverse_frequencies, rotate, rotation
from farspan.kv.interface import LayerRetention, SequenceKV, retentions


class Piece(NamedTuple):
    """Consecutive tokens of one sequence to compute in this step; its KV has been appended already."""

    sequence: SequenceKV
    token_ids: torch.Tensor  # [tokens], int64
    start: int  # position of the first


@dataclass(frozen=True, slots=True)
class _Mlp:
    gate_up: torch.Tensor  # [2 x width, hidden]
    down: torch.Tensor  # [hidden, width]
    gate_up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = functional.linear(x, self.gate_up, self.gate_up_bias).chunk(2, dim=-1)
        return functional.linear(functional.silu(gate) * up, self.down, self.down_bias)


@dataclass(frozen=True, slots=True)
class _Experts:
    """Llama 4's mixture: the token is scaled by its router score before the expert, and a shared expert is added."""

    router: torch.Tensor  # [experts, hidden]
    gate_up: torch.Tensor  # [experts, hidden, 2 x width]
    down: torch.Tensor  # [experts, width, hidden]
    shared: _Mlp
    top_k: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        scores, chosen = functional.linear(x, self.router).topk(self.top_k, dim=-1)
        scores = torch.sigmoid(scores.float()).to(x.dtype)
        output = self.shared(x)
        for expert in sorted(set(chosen.flatten().tolist())):
            token, slot = torch.where(chosen == expert)
            scaled = x[token] * scores[token, slot, None]
            gate, up = (scaled @ self.gate_up[expert]).chunk(2, dim=-1)
            output.index_add_(0, token, (functional.silu(gate) * up) @ self.down[expert])
        return output


@dataclass(frozen=True, slots=True)
class _Layer:
    config: LayerConfig
    input_norm: torch.Tensor
    qkv: torch.Tensor  # [(heads + 2 x kv_heads) x head_dim, hidden]
    qkv_bias: torch.Tensor | None
    output: torch.Tensor  # [hidden, heads x head_dim]
    output_bias: torch.Tensor | None
    post_norm: torch.Tensor
    feed_forward: _Mlp | _Experts


class LlamaModel:
    """A loaded model.

    Args:
        folder: A Hugging Face checkpoint folder.
        device: Where it runs.
        dtype: Of weights, activations and keys and values; None for the checkpoint's own on a GPU and for float32 on a
            CPU, where bf16 arithmetic is slower than float32 unless the processor has instructions for it.

    Attributes:
        weight_bytes: Bytes of the weights on the device.

    Raises:
        CheckpointError: The folder is not a checkpoint that the built-in engine runs.
    """

    def __init__(
        self, folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> None:
        self.folder = Path(folder)
        self.config = read_config(self.folder)
        self.device = torch.device(device)
        self.dtype = dtype or _default_dtype(self.config, self.device)
        tensors = Tensors(self.folder, self.config.weight_prefix, self.dtype, self.device)
        self._load(tensors)
        self.weight_bytes = tensors.taken_bytes
        self._frequencies = inverse_frequencies(self.config).to(self.device)

    @property
    def retentions(self) -> tuple[LayerRetention, ...]:
        """What each layer's KV must keep."""
        return retentions([layer.chunk for layer in self.config.layers])

    @torch.inference_mode()
    def forward(self, pieces: list[Piece]) -> torch.Tensor:
        """Compute one step and return the float32 logits [len(pieces), vocab] that follow each piece's last token."""
        hidden = self.hidden_states(pieces)
        last = torch.tensor([len(piece.token_ids) for piece in pieces], device=self.device).cumsum(0) - 1
        return self._logits(hidden[last])

    @torch.inference_mode()
    def all_logits(self, pieces: list[Piece]) -> torch.Tensor:
        """Compute one step and return the float32 logits [tokens, vocab] after every token of every piece."""
        return self._logits(self.hidden_states(pieces))

    @torch.inference_mode()
    def hidden_states(self, pieces: list[Piece]) -> torch.Tensor:
        """Compute one step and return the last layer's output [tokens, hidden], before the final norm."""
        token_ids = torch.cat([piece.token_ids for piece in pieces]).to(self.device)
        positions = torch.cat(
            [torch.arange(p.start, p.start + len(p.token_ids), device=self.device) for p in pieces]
        )
        cos, sin = rotation(positions, self._frequencies)
        hidden = functional.embedding(token_ids, self._embedding)
        for index, layer in enumerate(self._layers):
            normed = self._norm(hidden, layer.input_norm)
            hidden = hidden + self._attention(index, layer, normed, pieces, positions, cos, sin)
            hidden = hidden + layer.feed_forward(self._norm(hidden, layer.post_norm))
        return hidden

    def _attention(
        self,
        index: int,
        layer: _Layer,
        x: torch.Tensor,
        pieces: list[Piece],
        positions: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> torch.Tensor:
        config = self.config
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        qkv = functional.linear(x, layer.qkv, layer.qkv_bias)
        query, key, value = (
            part.reshape(len(x), -1, dim)
            for part in torch.split(qkv, [heads * dim, kv_heads * dim, kv_heads * dim], dim=-1)
        )
        if layer.config.rope:
            interleaved = config.family == "llama4"
            query = rotate(query, cos, sin, interleaved=interleaved)
            key = rotate(key, cos, sin, interleaved=interleaved)
            if config.use_qk_norm:
                query, key = self._unit_norm(query), self._unit_norm(key)
        elif config.attn_temperature_tuning:
            # https://arxiv.org/abs/2501.19399; transformers modeling_llama4.py: Llama4TextAttention.forward
            steps = torch.floor((positions.float() + 1.0) / config.floor_scale)
            factor = torch.log1p(steps) * config.attn_scale + 1.0
            query = (query * factor[:, None, None]).to(query.dtype)
        outputs = []
        offset = 0
        for piece in pieces:
            stop = offset + len(piece.token_ids)
            piece.sequence.write(index, piece.start, key[offset:stop], value[offset:stop])
            outputs.append(
                attend(query[offset:stop], piece.sequence, index, piece.start, layer.config.chunk, dim**-0.5)
            )
            offset = stop
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return functional.linear(joined.flatten(1), layer.output, layer.output_bias)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.linear(self._norm(hidden, self._final_norm), self._head).float()

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self.config.rms_norm_eps)

    def _unit_norm(self, x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x.float(), (x.shape[-1],), None, self.config.rms_norm_eps).to(x.dtype)

    def _load(self, tensors: Tensors) -> None:
        config = self.config
        vocab, hidden = config.vocab_size, config.hidden_size
        self._embedding = tensors.take("model.embed_tokens.weight", (vocab, hidden))
        self._final_norm = tensors.take("model.norm.weight", (hidden,))
        self._head = (
            self._embedding if config.tie_word_embeddings else tensors.take("lm_head.weight", (vocab, hidden))
        )
        self._layers = [self._load_layer(tensors, index, layer) for index, layer in enumerate(config.layers)]

    def _load_layer(self, tensors: Tensors, index: int, layer: LayerConfig) -> _Layer:
        config = self.config
        hidden, dim = config.hidden_size, config.head_dim
        rows = {
            "q": config.num_attention_heads * dim,
            "k": config.num_key_value_heads * dim,
            "v": config.num_key_value_heads * dim,
        }
        prefix = f"model.layers.{index}."
        attention = f"{prefix}self_attn."
        bias = config.attention_bias
        return _Layer(
            config=layer,
            input_norm=tensors.take(f"{prefix}input_layernorm.weight", (hidden,)),
            qkv=torch.cat(
                [tensors.take(f"{attention}{n}_proj.weight", (r, hidden)) for n, r in rows.items()]
            ),
            qkv_bias=torch.cat([tensors.take(f"{attention}{n}_proj.bias", (r,)) for n, r in rows.items()])
            if bias
            else None,
            output=tensors.take(f"{attention}o_proj.weight", (hidden, rows["q"])),
            output_bias=tensors.take(f"{attention}o_proj.bias", (hidden,)) if bias else None,
            post_norm=tensors.take(f"{prefix}post_attention_layernorm.weight", (hidden,)),
            feed_forward=self._load_feed_forward(tensors, prefix, layer),
        )

    def _load_feed_forward(self, tensors: Tensors, prefix: str, layer: LayerConfig) -> _Mlp | _Experts:
        config = self.config
        hidden, width, experts = config.hidden_size, config.intermediate_size, config.num_local_experts
        if config.family == "llama3":
            return self._load_mlp(tensors, f"{prefix}mlp.", width)
        prefix += "feed_forward."
        if not layer.moe:
            return self._load_mlp(tensors, prefix, config.intermediate_size_mlp)
        return _Experts(
            router=tensors.take(f"{prefix}router.weight", (experts, hidden)),
            gate_up=tensors.take(f"{prefix}experts.gate_up_proj", (experts, hidden, 2 * width)),
            down=tensors.take(f"{prefix}experts.down_proj", (experts, width, hidden)),
            shared=self._load_mlp(tensors, f"{prefix}shared_expert.", width),
            top_k=config.num_experts_per_tok,
        )

    def _load_mlp(self, tensors: Tensors, prefix: str, width: int) -> _Mlp:
        hidden, bias = self.config.hidden_size, self.config.mlp_bias
        gate_up = ("gate_proj", "up_proj")
        return _Mlp(
            gate_up=torch.cat([tensors.take(f"{prefix}{name}.weight", (width, hidden)) for name in gate_up]),
            down=tensors.take(f"{prefix}down_proj.weight", (hidden, width)),
            gate_up_bias=torch.cat([tensors.take(f"{prefix}{name}.bias", (width,)) for name in gate_up])
            if bias
            else None,
            down_bias=tensors.take(f"{prefix}down_proj.bias", (hidden,)) if bias else None,
        )


def _default_dtype(config: LlamaConfig, device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(config.torch_dtype, torch.float32)
