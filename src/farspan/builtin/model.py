"""Llama 3 and Llama 4 text models as a forward pass over a batch of sequence pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional

from farspan.builtin.attention import attend
from farspan.builtin.experts import ExpertLayer, grouped_product_works
from farspan.builtin.kernels.choose_operations import choose_operations
from farspan.builtin.kernels.operations import Operations, PageView
from farspan.builtin.kernels.trial import GROUPED_PRODUCT
from farspan.builtin.load_weights import CheckpointTensors, DummyTensors, LoadFormat, Tensors
from farspan.builtin.model_config import LayerConfig, LlamaConfig, read_config
from farspan.kv.formats import LayerStore
from farspan.kv.interface import LayerRetention, SequenceKV, retentions

# Of a layer: its number, itself, its queries, keys and values in one tensor -> [tokens, heads, head_dim].
_Attention = Callable[[int, "_Layer", torch.Tensor], torch.Tensor]


class Piece(NamedTuple):
    """Consecutive tokens of one sequence to compute in this step; its KV has been appended already."""

    sequence: SequenceKV
    token_ids: torch.Tensor  # [tokens], int64
    start: int  # position of the first


@dataclass(frozen=True, slots=True)
class _Mlp:
    gate_up: torch.Tensor  # [2 x width, hidden]
    down: torch.Tensor  # [hidden, width]
    gate_up_bias: torch.Tensor | None
    down_bias: torch.Tensor | None
    operations: Operations

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.operations.silu_mul(functional.linear(x, self.gate_up, self.gate_up_bias))
        return functional.linear(inner, self.down, self.down_bias)


@dataclass(frozen=True, slots=True)
class _Layer:
    config: LayerConfig
    input_norm: torch.Tensor
    qkv: torch.Tensor  # [(heads + 2 x kv_heads) x head_dim, hidden]
    qkv_bias: torch.Tensor | None
    output: torch.Tensor  # [hidden, heads x head_dim]
    output_bias: torch.Tensor | None
    post_norm: torch.Tensor
    feed_forward: _Mlp | ExpertLayer


class LlamaModel:
    """A loaded model.

    Args:
        folder: A Hugging Face checkpoint folder.
        device: Where it runs.
        dtype: Of weights, activations and keys and values; None for the checkpoint's own on a GPU and for float32 on a
            CPU, where bf16 arithmetic is slower than float32 unless the processor has instructions for it.
        load_format: Whether weights are read, or made on the device: then the folder needs no more than its config.

    Attributes:
        load_format: Where the weights came from.
        weight_bytes: Bytes of the weights on the device.
        operations: What layers do between their matrix products.

    Raises:
        CheckpointError: The folder is not a checkpoint that the built-in engine runs.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        load_format: LoadFormat = LoadFormat.AUTO,
    ) -> None:
        self.folder = Path(folder)
        self.config = read_config(self.folder)
        self.load_format = load_format
        self.device = torch.device(device)
        self.dtype = dtype or _default_dtype(self.config, self.device)
        tensors: Tensors = (
            DummyTensors(self.dtype, self.device)
            if load_format is LoadFormat.DUMMY
            else CheckpointTensors(self.folder, self.config.weight_prefix, self.dtype, self.device)
        )
        self.operations = choose_operations(self.folder, self.config, self.device, self.dtype)
        self._load(tensors)
        self.weight_bytes = tensors.taken_bytes

    @property
    def retentions(self) -> tuple[LayerRetention, ...]:
        """What each layer's KV must keep."""
        return retentions([layer.chunk for layer in self.config.layers])

    @torch.inference_mode()
    def forward(self, pieces: list[Piece]) -> torch.Tensor:
        """Compute one step and return the float32 logits [len(pieces), vocab] that follow each piece's last token."""
        residual, delta = self._compute(pieces)
        last = self._to_device(torch.tensor([len(piece.token_ids) for piece in pieces]).cumsum(0) - 1)
        return self._logits(residual[last], delta[last])

    @torch.inference_mode()
    def all_logits(self, pieces: list[Piece]) -> torch.Tensor:
        """Compute one step and return the float32 logits [tokens, vocab] after every token of every piece."""
        return self._logits(*self._compute(pieces))

    @torch.inference_mode()
    def decode(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        views: Sequence[PageView],
        stores: Sequence[tuple[int, LayerStore]],
    ) -> torch.Tensor:
        """Compute one token of each of several sequences, with no look at the data from the CPU.

        Args:
            token_ids: int64 [sequences].
            positions: Their positions, int64 [sequences]; -1 for a sequence that is not there.
            views: Where the pages of each kind of layers are; those of these positions are there too.
            stores: The kind of each layer, and its keys and values.

        Returns:
            The float32 logits [sequences, vocab] that follow.
        """
        operations = self.operations
        places = operations.places(positions)
        slots = [view.slots(positions) for view in views]

        def attention(index: int, layer: _Layer, qkv: torch.Tensor) -> torch.Tensor:
            kind, store = stores[index]
            query = operations.write_heads(qkv, places, layer.config.rope, store, slots[kind])
            return operations.attend_pages(query, positions, views[kind], store)

        return self._logits(
            *self._through_layers(functional.embedding(token_ids, self._embedding), attention)
        )

    def _compute(self, pieces: list[Piece]) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute one step; return what `_through_layers` does."""
        operations = self.operations
        token_ids = self._to_device(torch.cat([piece.token_ids for piece in pieces]))
        positions = torch.cat(
            [torch.arange(p.start, p.start + len(p.token_ids), device=self.device) for p in pieces]
        )
        places = operations.places(positions)
        scale = self.config.head_dim**-0.5

        def attention(index: int, layer: _Layer, qkv: torch.Tensor) -> torch.Tensor:
            query, key, value = operations.heads(qkv, places, layer.config.rope)
            outputs = []
            offset = 0
            for piece in pieces:
                stop = offset + len(piece.token_ids)
                piece.sequence.write(index, piece.start, key[offset:stop], value[offset:stop])
                part, chunk = query[offset:stop], layer.config.chunk
                outputs.append(
                    attend(part, piece.sequence, index, piece.start, chunk, scale, operations.join)
                )
                offset = stop
            return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

        return self._through_layers(functional.embedding(token_ids, self._embedding), attention)

    def _through_layers(
        self, hidden: torch.Tensor, attention: _Attention
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the two [tokens, hidden] whose sum leaves the last layer; the final norm adds them."""
        operations = self.operations
        residual, delta = hidden, None
        for index, layer in enumerate(self._layers):
            residual, normed = operations.add_norm(residual, delta, layer.input_norm)
            attended = attention(index, layer, functional.linear(normed, layer.qkv, layer.qkv_bias))
            delta = functional.linear(attended.flatten(1), layer.output, layer.output_bias)
            residual, normed = operations.add_norm(residual, delta, layer.post_norm)
            delta = layer.feed_forward(normed)
        assert delta is not None
        return residual, delta

    def _to_device(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return numbers on the device, without waiting there for what was asked of it before."""
        if self.device.type == "cuda":
            return numbers.pin_memory().to(self.device, non_blocking=True)
        return numbers.to(self.device)

    def _logits(self, residual: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        _, normed = self.operations.add_norm(residual, delta, self._final_norm)
        return functional.linear(normed, self._head).float()

    def _load(self, tensors: Tensors) -> None:
        config = self.config
        vocab, hidden = config.vocab_size, config.hidden_size
        self._embedding = tensors.take("model.embed_tokens.weight", (vocab, hidden))
        self._final_norm = tensors.take("model.norm.weight", (hidden,))
        self._head = (
            self._embedding if config.tie_word_embeddings else tensors.take("lm_head.weight", (vocab, hidden))
        )
        self._grouped = (
            any(layer.moe for layer in config.layers)
            and GROUPED_PRODUCT not in self.operations.refused
            and grouped_product_works(self.device, self.dtype, hidden, config.intermediate_size)
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

    def _load_feed_forward(self, tensors: Tensors, prefix: str, layer: LayerConfig) -> _Mlp | ExpertLayer:
        config = self.config
        width = config.intermediate_size
        if config.family == "llama3":
            return self._load_mlp(tensors, f"{prefix}mlp.", width)
        prefix += "feed_forward."
        if not layer.moe:
            return self._load_mlp(tensors, prefix, config.intermediate_size_mlp)
        return self._load_experts(tensors, prefix)

    def _load_experts(self, tensors: Tensors, prefix: str) -> ExpertLayer:
        """Load experts as [outputs, inputs], as all other weights are, the shared one behind the others."""
        config = self.config
        hidden, width, experts = config.hidden_size, config.intermediate_size, config.num_local_experts
        gate_up = torch.empty(experts + 1, 2 * width, hidden, dtype=self.dtype, device=self.device)
        down = torch.empty(experts + 1, hidden, width, dtype=self.dtype, device=self.device)
        for whole, name, shape in (
            (gate_up, "experts.gate_up_proj", (experts, hidden, 2 * width)),
            (down, "experts.down_proj", (experts, width, hidden)),
        ):
            whole[:experts].copy_(tensors.take(f"{prefix}{name}", shape).transpose(1, 2))
        for at, name in ((0, "gate_proj"), (width, "up_proj")):
            gate_up[-1, at : at + width] = tensors.take(
                f"{prefix}shared_expert.{name}.weight", (width, hidden)
            )
        down[-1] = tensors.take(f"{prefix}shared_expert.down_proj.weight", (hidden, width))
        return ExpertLayer(
            router=tensors.take(f"{prefix}router.weight", (experts, hidden)),
            gate_up=gate_up,
            down=down,
            top_k=config.num_experts_per_tok,
            grouped=self._grouped,
            operations=self.operations,
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
            operations=self.operations,
        )


def _default_dtype(config: LlamaConfig, device: torch.device) -> torch.dtype:
    if device.type == "cpu":
        return torch.float32
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(config.torch_dtype, torch.float32)
