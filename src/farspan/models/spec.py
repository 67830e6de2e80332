"""What a model is to a planner: one record a layer, every weight tensor, and what each token leaves behind.

Byte counts are per tensor-parallel rank when a `tp` is given. Nothing here knows an engine: pages, pools and
alignment belong to `farspan.planner`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from farspan.errors import InputError
from farspan.models.image_item import ImageItem
from farspan.models.tensors import DTYPE_BYTES, QuantSpec, RopeSpec, WeightPart, WeightTensor
from farspan.value_hash import ValueHash


class AttentionKind(StrEnum):
    """What a layer must keep of the past, named as vLLM's KV cache specs name it."""

    FULL = "full"
    CHUNKED_LOCAL = "chunked_local"  # Llama 4: the current chunk of `window` tokens
    SLIDING_WINDOW = "sliding_window"  # the last `window` tokens
    MLA = "mla"  # one latent vector a token, shared by all heads, copied to every rank
    COMPRESSED = "compressed"  # DeepSeek V4: a sliding window, plus one latent a `tokens_per_entry` tokens
    NONE = "none"  # no attention: an MLP of its own (Nemotron-H), or a layer whose attention was cut out
    LINEAR = "linear"  # a recurrent state of fixed size: nothing grows with the context

    @property
    def keeps_no_tokens(self) -> bool:
        """Whether a layer of this kind keeps nothing a token."""
        return self in (AttentionKind.NONE, AttentionKind.LINEAR)


class KvDtype(StrEnum):
    """The KV cache types both engines spell the same way, plus vLLM's own names for FP8."""

    AUTO = "auto"  # the model's dtype, or what its checkpoint asks for
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FP8 = "fp8"  # vLLM: E4M3 on CUDA
    FP8_E4M3 = "fp8_e4m3"
    FP8_E5M2 = "fp8_e5m2"
    FP8_DS_MLA = "fp8_ds_mla"  # 512 FP8 values, 4 float32 scales, 64 bf16 RoPE values: 656 bytes

    @property
    def is_fp8(self) -> bool:
        """Whether one value takes one byte."""
        return self.value.startswith("fp8")

    def value_bytes(self, model_dtype_bytes: int) -> int:
        """Bytes of one cached value; AUTO is the model's own dtype."""
        if self is KvDtype.AUTO:
            return model_dtype_bytes
        return 1 if self.is_fp8 else 2


_KV_SPELLINGS = {
    "bf16": KvDtype.BFLOAT16,
    "fp16": KvDtype.FLOAT16,
    "half": KvDtype.FLOAT16,
    "float8": KvDtype.FP8,
    "e4m3": KvDtype.FP8_E4M3,
    "fp8e4m3": KvDtype.FP8_E4M3,
    "float8_e4m3fn": KvDtype.FP8_E4M3,
    "e5m2": KvDtype.FP8_E5M2,
    "fp8e5m2": KvDtype.FP8_E5M2,
    "float8_e5m2": KvDtype.FP8_E5M2,
}


def parse_kv_dtype(text: str | KvDtype) -> KvDtype:
    """Read a KV cache type as people write it: `bf16`, `E4M3`, `fp8-e4m3`, in any case.

    Raises:
        InputError: It is no such type.
    """
    wanted = str(text).strip().lower().replace("-", "_")
    found = _KV_SPELLINGS.get(wanted) or next((kind for kind in KvDtype if kind.value == wanted), None)
    if found is None:
        raise InputError(
            f"--kv-dtype {text!r} is no KV cache type",
            f"choose one of {', '.join(kind.value for kind in KvDtype)}",
        )
    return found


class LatentSpec(NamedTuple):
    """Multi-head latent attention: what is cached is `kv_lora_rank + rope_dim` values a token, on every rank.

    `kv_lora_rank` is the compressed part, `rope_dim` the shared RoPE key; `q_lora_rank` is 0 without query
    compression; `nope_dim` and `value_dim` are the per-head sizes the latent is expanded to.
    """

    kv_lora_rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    q_lora_rank: int


class IndexerSpec(NamedTuple):
    """A sparse-attention indexer with a key cache of its own, kept on every rank.

    DeepSeek V3.2 style (`fp8_scale_block` > 0): `head_dim` FP8 values and one float32 scale per block,
    whatever the KV dtype (vllm 0.32.0 models/deepseek_v2.py: DeepseekV32IndexerCache).
    With `fp8_scale_block` = 0 the keys are bf16, also whatever the KV dtype (MiniMax M3).
    Its heads are whole on every rank, or `divided` as KV heads are (MiniMax M3: vllm 0.33.0
    models/minimax_m3/nvidia/model.py: MiniMaxM3SparseAttention; sglang 0.5.23 srt/models/minimax_m3.py).
    """

    num_heads: int
    head_dim: int
    top_k: int  # tokens (or blocks, MiniMax M3) a query attends to
    fp8_scale_block: int = 128
    divided: bool = False

    @property
    def entry_bytes(self) -> int:
        """Bytes of one index key."""
        if self.fp8_scale_block:
            return self.head_dim + self.head_dim // self.fp8_scale_block * 4
        return self.head_dim * 2


CONVOLUTION = "conv"


class StateTensor(NamedTuple):
    """One recurrent-state tensor of one layer and one request.

    Args:
        name: CONVOLUTION, whose last dimension is the steps it looks back, or "recurrent".
        shape: Its dimensions.
        dtype_bytes: Bytes of one value.
        split_dim: The dimension (heads, or channels) that is shared out over the ranks.
        groups: Groups of channels in it that heads share: divided while there are enough, then one copy a rank.
        group_channels: Channels of one group.
        chunk: Tokens that the layer's kernel folds at once, of Mamba's layers; 0 elsewhere.
    """

    name: str
    shape: tuple[int, ...]
    dtype_bytes: int
    split_dim: int
    groups: int = 0
    group_channels: int = 0
    chunk: int = 0

    def bytes(self, tp: int = 1, *, drafted: int = 0) -> int:
        """Bytes on one rank; a convolution keeps one more step for each token drafted."""
        count = self.dtype_bytes
        last = len(self.shape) - 1
        for axis, size in enumerate(self.shape):
            kept = size + drafted if self.name == CONVOLUTION and axis == last else size
            count *= self._share(kept, tp) if axis == self.split_dim else kept
        return count

    def _share(self, size: int, tp: int) -> int:
        if not self.groups:
            return -(-size // tp)
        own = -(-(size - self.groups * self.group_channels) // tp)
        return own + max(1, self.groups // tp) * self.group_channels


class MoeSpec(NamedTuple):
    """A mixture-of-experts MLP: `top_k` of `num_experts` run for each token, and the shared ones always."""

    num_experts: int
    top_k: int
    intermediate_size: int
    shared_intermediate_size: int = 0  # of all shared experts together


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One decoder layer: what its attention keeps and how wide its MLP is.

    Args:
        index: Position in the model, from 0.
        attention: What the layer keeps of the past.
        num_heads: Query heads (value heads of a LINEAR layer).
        num_kv_heads: Key/value heads; 1 for MLA and COMPRESSED; 0 for LINEAR.
        head_dim: Size of one key; of one cached latent for MLA and COMPRESSED.
        value_head_dim: Size of one value; 0 where the value is the latent itself.
        window: Chunk (CHUNKED_LOCAL) or window (SLIDING_WINDOW, COMPRESSED) in tokens, else None.
        rope: Whether positions are rotated; False for NoPE layers.
        latent: MLA dimensions, for MLA only.
        indexer: Sparse-attention indexer and its cache, if any.
        states: Recurrent state, for LINEAR only.
        tokens_per_entry: COMPRESSED: tokens folded into one cached latent; 0 keeps the window only. Else 1.
        shares_kv_with: Index of the layer whose KV this one reads; it then keeps none of its own.
        intermediate_size: Dense MLP width; 0 when the layer has experts only.
        moe: The experts, if any.
    """

    index: int
    attention: AttentionKind
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_head_dim: int
    window: int | None = None
    rope: bool = True
    latent: LatentSpec | None = None
    indexer: IndexerSpec | None = None
    states: tuple[StateTensor, ...] = ()
    tokens_per_entry: int = 1
    shares_kv_with: int | None = None
    intermediate_size: int = 0
    moe: MoeSpec | None = None

    @property
    def keeps_no_tokens(self) -> bool:
        """Whether nothing of it grows with the context and it has no window either."""
        return self.attention.keeps_no_tokens or self.shares_kv_with is not None

    def kv_heads_per_rank(self, tp: int) -> int:
        """KV heads on one rank: divided while there are enough, then one copy a rank (vllm 0.32.0
        config/model.py: get_num_kv_heads, max(1, total // tp))."""
        if self.attention in (AttentionKind.MLA, AttentionKind.COMPRESSED):
            return 1
        return max(1, self.num_kv_heads // tp) if self.num_kv_heads else 0

    def kv_entry_bytes(self, kv_value_bytes: int, tp: int = 1) -> int:
        """Bytes one cached entry takes on one rank, without the indexer: K and V of its heads, or one latent.

        An entry is one token, except in a COMPRESSED layer (see `tokens_per_entry`). LINEAR and KV-sharing
        layers have none.
        """
        if self.keeps_no_tokens:
            return 0
        return self.kv_heads_per_rank(tp) * (self.head_dim + self.value_head_dim) * kv_value_bytes

    @property
    def indexer_entry_bytes(self) -> int:
        """Bytes of one index key on one rank; 0 without an indexer."""
        return self.indexer.entry_bytes if self.indexer else 0

    def kv_bytes_per_token(self, kv_value_bytes: int, tp: int = 1) -> int:
        """Bytes one kept token takes on one rank, indexer included; a COMPRESSED layer's window only."""
        entry = self.kv_entry_bytes(kv_value_bytes, tp)
        return entry + (self.indexer_entry_bytes if self.tokens_per_entry == 1 else 0)

    def kv_tokens_kept(self, context: int) -> int:
        """Tokens a finished prefill of `context` tokens must keep (no page rounding, no batch in flight)."""
        if self.keeps_no_tokens:
            return 0
        return min(context, self.window) if self.window is not None else context

    def kv_bytes(self, context: int, kv_value_bytes: int, tp: int = 1) -> int:
        """Bytes this layer keeps of one request of `context` tokens on one rank, recurrent state included."""
        total = self.kv_tokens_kept(context) * self.kv_bytes_per_token(kv_value_bytes, tp)
        if self.attention is AttentionKind.COMPRESSED and self.tokens_per_entry:
            entry = self.kv_entry_bytes(kv_value_bytes, tp) + self.indexer_entry_bytes
            total += context // self.tokens_per_entry * entry
        return total + self.state_bytes(tp)

    def state_bytes(self, tp: int = 1, *, drafted: int = 0) -> int:
        """Recurrent-state bytes of one request on one rank, `drafted` tokens ahead of it at most."""
        return sum(state.bytes(tp, drafted=drafted) for state in self.states)


@dataclass(frozen=True, slots=True)
class ModelSpec(ValueHash):
    """A whole model. Compared by value and hashed once, so that results computed from it can be cached cheaply.

    Args:
        name: Catalog name, or the folder the config came from.
        architecture: `architectures[0]` of the config, the class that engines build.
        model_type: The config's `model_type`.
        hidden_size: Width of the residual stream.
        vocab_size: Rows of the embedding.
        max_position_embeddings: Longest context the config allows, in tokens.
        layers: One record a decoder layer.
        weights: Every weight tensor, vision included; multi-token-prediction layers are not.
        torch_dtype: The dtype of unquantized weights.
        ropes: Distinct cos/sin tables of the language model.
        quantization: How the checkpoint's weights are quantized, or None; where formats differ, the first named.
        kv_fp8: Whether the checkpoint asks for an FP8 KV cache when the KV dtype is auto.
        tie_word_embeddings: Whether the output head is the embedding.
        notes: What a reader of any figure must know: an assumption made, a published quantization.
        image: The largest image it takes, or None without a vision tower.
        config_overrides: A JSON object of config fields that the engine must be given for what is planned.
        other_architectures: The rest of the config's `architectures`: SGLang looks for some names anywhere among them.
    """

    name: str
    architecture: str
    model_type: str
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    layers: tuple[LayerSpec, ...]
    weights: tuple[WeightTensor, ...]
    torch_dtype: str = "bfloat16"
    ropes: tuple[RopeSpec, ...] = ()
    quantization: QuantSpec | None = None
    kv_fp8: bool = False
    tie_word_embeddings: bool = False
    notes: tuple[str, ...] = ()
    image: ImageItem | None = None
    config_overrides: str = ""
    other_architectures: tuple[str, ...] = ()

    __hash__ = ValueHash.__hash__

    @property
    def architectures(self) -> tuple[str, ...]:
        """All names under the config's `architectures`."""
        return (self.architecture, *self.other_architectures)

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one unquantized weight, and of one KV value when the KV dtype is auto."""
        return DTYPE_BYTES[self.torch_dtype]

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.layers)

    @property
    def num_heads(self) -> int:
        """Query heads of the widest layer."""
        return max(layer.num_heads for layer in self.layers)

    @property
    def num_kv_heads(self) -> int:
        """KV heads of the layer that has most; 1 for MLA, 0 when every layer is recurrent."""
        return max(layer.num_kv_heads for layer in self.layers)

    @property
    def has_vision(self) -> bool:
        """Whether the checkpoint carries a vision tower."""
        return any(weight.part is WeightPart.VISION for weight in self.weights)

    @property
    def is_compressed(self) -> bool:
        """Whether it keeps latents of folded tokens (DeepSeek V4)."""
        return any(layer.attention is AttentionKind.COMPRESSED for layer in self.layers)

    def layers_of(self, *kinds: AttentionKind) -> Iterator[LayerSpec]:
        """The layers whose attention is one of `kinds`, in order."""
        return (layer for layer in self.layers if layer.attention in kinds)

    def kv_bytes_per_token(self, kv_dtype: KvDtype = KvDtype.AUTO, tp: int = 1) -> int:
        """Bytes a token takes on one rank when every layer keeps it: the most that hybrid pools save from."""
        width = kv_dtype.value_bytes(self.dtype_bytes)
        return sum(layer.kv_bytes_per_token(width, tp) for layer in self.layers)

    def kv_bytes(self, context: int, kv_dtype: KvDtype = KvDtype.AUTO, tp: int = 1) -> int:
        """Bytes one request of `context` tokens must keep on one rank, each layer by its own rule."""
        width = kv_dtype.value_bytes(self.dtype_bytes)
        return sum(layer.kv_bytes(context, width, tp) for layer in self.layers)

    def largest_tp(self, gpus: int) -> int:
        """The largest tensor-parallel size up to `gpus` that the heads allow; `gpus` where none does."""
        return next((tp for tp in range(gpus, 0, -1) if _tp_refusal(self, tp) is None), gpus)

    def check_tp(self, tp: int) -> None:
        """Refuse a tensor-parallel size the engines refuse.

        Raises:
            InputError: `tp` does not divide the query heads, or fits the KV heads neither way.
        """
        if (refusal := _tp_refusal(self, tp)) is not None:
            raise InputError(*refusal)


@lru_cache(maxsize=1024)
def _tp_refusal(model: ModelSpec, tp: int) -> tuple[str, str] | None:
    """Why `tp` does not do, and the fix; None when it does. Sweeps ask it for every point."""
    for layer in model.layers:
        heads, kv_heads = layer.num_heads, layer.num_kv_heads
        if layer.attention is AttentionKind.NONE:
            continue
        if tp < 1 or heads % tp:
            choices = ", ".join(str(size) for size in range(1, heads + 1) if heads % size == 0)
            return (
                f"tensor parallel {tp} does not divide the {heads} attention heads of {model.name}",
                f"choose one of {choices}",
            )
        groups = max((state.groups for state in layer.states), default=0)
        if groups > 1 and groups % tp:  # vllm 0.33.0 layers/mamba/mamba_mixer2.py: MambaMixer2; SGLang's too
            return (
                f"tensor parallel {tp} does not divide the {groups} groups of Mamba heads of {model.name}",
                f"choose one of {', '.join(str(size) for size in range(1, groups + 1) if groups % size == 0)}",
            )
        if layer.attention in (AttentionKind.MLA, AttentionKind.COMPRESSED) or not kv_heads:
            continue
        if kv_heads % tp and tp % kv_heads:
            return (
                f"tensor parallel {tp} does not fit the {kv_heads} KV heads of {model.name}",
                "choose a size that divides them or is a multiple of them",
            )
    return None
