"""The dimensions that a family's declaration and a config give a decoder: heads, latents, experts, widths."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.declaration import Experts, Family, Switch
from farspan.models.families.decoder import Decoder
from farspan.models.families.layer_kinds import (
    CHUNKED,
    EXPERTS,
    FULL,
    LINEAR,
    MLP,
    SLIDING,
    layer_kinds,
    sparse_layers,
)
from farspan.models.spec import IndexerSpec, LatentSpec, MoeSpec
from farspan.models.tensors import DTYPE_BYTES

if TYPE_CHECKING:
    from farspan.models.families.mixers import Mixer


def switch(reader: ConfigReader, value: Switch) -> bool:
    """What a declaration's switch says for this config."""
    if isinstance(value, bool):
        return value
    name, _, default = value.partition("=")
    if not isinstance(reader.fields.get(name, False), bool | None):
        return bool(reader.integer(name, 0, zero=True))
    return reader.flag(name, default == "true")


class AttentionDims(NamedTuple):
    """The dimensions of a grouped-query or latent layer."""

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    window: int | None = None
    latent: LatentSpec | None = None


class DimensionReader:
    """Reads the dimensions of one decoder.

    Args:
        decoder: What has been read so far.
        family: The declaration.
    """

    def __init__(self, decoder: Decoder, family: Family) -> None:
        self.decoder = decoder
        self.family = family
        self.reader = decoder.reader
        self.hidden = decoder.hidden
        self.layers = decoder.num_layers
        self.dtype_bytes = DTYPE_BYTES[self.reader.dtype(decoder.outer.dtype())]
        self.kinds = layer_kinds(self.reader, family, self.layers)
        self.experts = self.read_experts()

    def read_attention(self) -> dict[str, AttentionDims]:
        """Dimensions by layer kind; sliding layers may have their own."""
        reader, family = self.reader, self.family
        heads = reader.integer("num_attention_heads")
        if family.latent:
            latent = LatentSpec(
                kv_lora_rank=reader.integer("kv_lora_rank"),
                rope_dim=reader.integer("qk_rope_head_dim", 0, zero=True),
                nope_dim=reader.integer("qk_nope_head_dim"),
                value_dim=reader.integer("v_head_dim"),
                q_lora_rank=reader.integer("q_lora_rank", 0, zero=True),
            )
            reader.ignore("num_key_value_heads", "head_dim", "qk_head_dim")
            size = latent.kv_lora_rank + latent.rope_dim
            return {FULL: AttentionDims(heads, 1, size, 0, latent=latent)}
        kv_heads = self._kv_heads(heads)
        head_dim = reader.integer("head_dim", 0, zero=True) or self.hidden // heads
        value_dim = reader.integer("v_head_dim", head_dim)
        full = AttentionDims(heads, kv_heads, head_dim, value_dim)
        found = {FULL: full}
        if SLIDING in self.kinds:
            window = reader.integer("sliding_window")
            prefix = "swa_"
            found[SLIDING] = AttentionDims(
                reader.integer(
                    prefix + "num_attention_heads", reader.integer("num_sliding_attention_heads", heads)
                ),
                reader.integer(prefix + "num_key_value_heads", kv_heads),
                reader.integer(prefix + "head_dim", head_dim),
                reader.integer(prefix + "v_head_dim", value_dim),
                window,
            )
        else:
            reader.ignore(
                "sliding_window", "use_sliding_window", "max_window_layers", "num_sliding_attention_heads"
            )
        reader.ignore("use_sliding_window", "max_window_layers")
        if CHUNKED in self.kinds:
            found[CHUNKED] = AttentionDims(
                heads, kv_heads, head_dim, value_dim, reader.integer("attention_chunk_size")
            )
        return found

    def _kv_heads(self, heads: int) -> int:
        reader = self.reader
        if reader.pending("new_decoder_architecture") or reader.pending("multi_query"):
            # Falcon and GPT BigCode: one KV head, unless the new decoder says how many.
            new = reader.flag("new_decoder_architecture", False)
            one = reader.flag("multi_query", True)
            given = reader.integer("num_key_value_heads", heads)
            return given if new else (1 if one else heads)
        if reader.pending("multi_query_attention"):
            groups = reader.integer("multi_query_group_num", heads)
            return groups if reader.flag("multi_query_attention", False) else heads
        if isinstance(reader.fields.get("num_key_value_heads"), list):
            counts = reader.integers("num_key_value_heads")
            if len(set(counts)) > 1:
                reader.refuse("num_key_value_heads", "differs between layers, which farspan does not model")
            return counts[0]
        return reader.integer("num_key_value_heads", 1 if self.family.kv_heads == "one" else heads)

    def read_mixer_dims(self) -> Mixer | None:
        """The recurrent mixer of the layers that have one; None for a model without."""
        if not self.family.linear:
            if LINEAR in self.kinds:
                self.reader.refuse(
                    "layer_types", "has recurrent layers, which farspan does not know for this model"
                )
            return None
        if not self.family.parallel_mixers and LINEAR not in self.kinds:
            for name in self.reader.fields:
                if name.startswith(("mamba_", "linear_", "conv_", "ssm_")):
                    self.reader.ignore(name)
            return None
        from farspan.models.families.mixers import read_mixer  # most models have none, and it is long

        return read_mixer(self.family.linear, self.reader, self.hidden, self.dtype_bytes)

    def read_indexers(self) -> list[IndexerSpec | None]:
        """The sparse-attention indexer of each layer. `indexer_types` shared layers use an earlier layer's choice and
        keep no index of their own (transformers 5.23 models/glm_moe_dsa: "shared")."""
        reader = self.reader
        if not self.family.latent or "index_n_heads" not in reader:
            return [None] * self.layers
        indexer = IndexerSpec(
            reader.integer("index_n_heads"), reader.integer("index_head_dim"), reader.integer("index_topk")
        )
        if "indexer_types" in reader:
            kinds = reader.per_layer("indexer_types", self.layers, ["full", "shared"])
            reader.ignore("index_topk_freq", "index_topk_pattern")
            found = [indexer if kind == "full" else None for kind in kinds]
        elif "index_topk_pattern" in reader:
            pattern = reader.text("index_topk_pattern")
            found = [
                None if pattern[index % len(pattern)] == "S" else indexer for index in range(self.layers)
            ]
        else:
            every = reader.integer("index_topk_freq", 1)
            found = [indexer if index % every == 0 else None for index in range(self.layers)]
        return [spec if kind == FULL else None for spec, kind in zip(found, self.kinds, strict=True)]

    def read_options(self) -> dict[str, bool]:
        """Which of the optional weights there are."""
        reader, family = self.reader, self.family
        return {
            "bias_qkv": switch(reader, family.bias_qkv),
            "bias_out": switch(reader, family.bias_out),
            "bias_mlp": switch(reader, family.bias_mlp),
            "qk_norm": bool(family.qk_norm) and switch(reader, family.qk_norm_if),
            "gate": bool(family.gate) and switch(reader, family.gate_if),
            "sinks": switch(reader, family.sinks),
            "post_norms": switch(reader, family.post_norms),
        }

    def read_kv_sources(self) -> list[int | None]:
        """For each layer, the layer whose KV it reads (`num_kv_shared_layers` at the end), or None."""
        if "kv_source_layers" in self.reader:
            listed = self.reader.integers("kv_source_layers")
            if len(listed) != self.layers:
                self.reader.refuse("kv_source_layers", f"has {len(listed)} entries for {self.layers} layers")
            return [None if source == index else source for index, source in enumerate(listed)]
        shared = self.reader.integer("num_kv_shared_layers", 0, zero=True)
        first = self.layers - shared
        sources: list[int | None] = [None] * first
        for kind in self.kinds[first:]:
            own = [index for index in range(first) if self.kinds[index] == kind]
            if not own:
                self.reader.refuse(
                    "num_kv_shared_layers", f"is {shared}: no earlier layer keeps KV of that kind"
                )
            sources.append(own[-1])
        return sources

    def read_widths(self) -> list[int]:
        """The dense MLP's width in each layer."""
        reader, family = self.reader, self.family
        names = family.experts.dense if family.experts else ("intermediate_size",)
        name = next((name for name in names if name in reader), names[0])
        if isinstance(reader.fields.get(name), list):
            widths = reader.integers(name)
            if len(widths) != self.layers:
                reader.refuse(name, f"has {len(widths)} entries for {self.layers} layers")
            return widths
        ratio = {"4x": 4}.get(family.width_rule, 0)
        default: int | object = ratio * self.hidden if ratio else 0
        width = reader.integer(name, default, zero=True)
        if family.width_rule == "lfm":
            width = self._lfm_width(width)
        elif family.width_rule == "swiglu":
            width //= 2  # Qwen 1 counts gate and up together
        dense = self._needs_dense()
        if dense and not width:
            reader.integer(name)  # says that it is missing
        if not dense:
            width = 0
        return [width] * self.layers

    def _needs_dense(self) -> bool:
        if self.family.single_block:
            return MLP in self.kinds
        if self.experts is None:
            return self.family.norms > 1 or not self.family.linear
        return self.family.experts is not None and (
            self.family.experts.beside_dense or not all(self.experts[1])
        )

    def _lfm_width(self, width: int) -> int:
        """LFM2 makes two thirds of the width, rounded up (transformers 5.23 models/lfm2: Lfm2MLP)."""
        reader = self.reader
        multiple = reader.integer("block_multiple_of", 256)
        factor = reader.number("block_ffn_dim_multiplier", 1.0)
        if reader.flag("block_auto_adjust_ff_dim", False):
            width = int(2 * width / 3 * factor)
            width = -(-width // multiple) * multiple
        reader.ignore(
            "block_dim",
            "block_ff_dim",
            "block_norm_eps",
            "block_use_swiglu",
            "block_use_xavier_init",
            "block_mlp_init_scale",
            "block_out_init_scale",
        )
        return width

    def read_experts(self) -> tuple[MoeSpec, list[bool]] | None:
        """The experts, and which layers have them; None for a dense model."""
        reader, declared = self.reader, self.family.experts
        if declared is None or not reader.integer("num_experts", 0, zero=True):
            reader.ignore(
                "num_experts_per_tok", "moe_intermediate_size", "first_k_dense_replace", "moe_layer_freq"
            )
            reader.ignore("num_shared_experts", "mlp_layer_types", "decoder_sparse_step", "mlp_only_layers")
            if declared is not None and not declared.shared.startswith("width"):
                reader.ignore("shared_expert_intermediate_size")
            return None
        count = reader.integer("num_experts")
        top_k = reader.integer("num_experts_per_tok")
        names = [name for name in declared.width if name in reader]
        width = reader.integer(names[0] if names else declared.width[0])
        shared = self._shared_width(declared, width)
        reader.ignore("moe_layer_freq", "first_k_dense_replace")
        sparse = sparse_layers(reader, declared.sparse, self.layers)
        if self.family.single_block:
            sparse = [kind == EXPERTS for kind in self.kinds]
        return MoeSpec(count, top_k, width, shared), sparse

    def _shared_width(self, declared: Experts, width: int) -> int:
        reader = self.reader
        count = reader.integer("num_shared_experts", 0, zero=True)
        own = reader.integer("shared_expert_intermediate_size", 0, zero=True)
        if declared.shared == "count":
            return count * (own or width)
        if declared.shared == "width":
            return own
        if declared.shared == "width x count":
            return own * max(1, count)
        return 0
