"""The one reader of decoders: a family's declaration and a config make layers and weights."""

from __future__ import annotations

from dataclasses import dataclass

from farspan.models.families import blocks
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.declaration import Experts, Family, Switch
from farspan.models.families.decoder import Decoder
from farspan.models.families.layer_kinds import (
    CHUNKED,
    EXPERTS,
    FULL,
    LINEAR,
    MLP,
    NOTHING,
    SLIDING,
    layer_count,
    layer_kinds,
    sparse_layers,
)
from farspan.models.families.mixers import Mixer, read_mixer
from farspan.models.families.rope import rope_tables
from farspan.models.families.weights_builder import WeightsBuilder
from farspan.models.spec import AttentionKind, IndexerSpec, LatentSpec, LayerSpec, MoeSpec
from farspan.models.tensors import DTYPE_BYTES, RopeSpec, Shard, WeightPart

# Activations of MLPs without a gate, which have two projections rather than three.
_UNGATED = ("relu2", "xielu")
_ATTENTION, _NORM = WeightPart.ATTENTION, WeightPart.NORM


def switch(reader: ConfigReader, value: Switch) -> bool:
    """What a declaration's switch says for this config."""
    if isinstance(value, bool):
        return value
    name, _, default = value.partition("=")
    if not isinstance(reader.fields.get(name, False), bool | None):
        return bool(reader.integer(name, 0, zero=True))
    return reader.flag(name, default == "true")


@dataclass(frozen=True, slots=True)
class _Attention:
    """The dimensions of a grouped-query or latent layer."""

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    window: int | None = None
    latent: LatentSpec | None = None


class DecoderReader:
    """Reads one decoder into a `Decoder`.

    Args:
        decoder: What has been read so far; layers and weights go into it.
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

    def read(self) -> list[RopeSpec]:
        """Read every layer; returns the cos/sin tables."""
        reader, family = self.reader, self.family
        for name, values in family.expects:
            reader.expect(name, *values)
        reader.ignore(*family.harmless)
        if family.mlp == "gated" and not family.inner_norms and reader.fields.get("hidden_act") in _UNGATED:
            reader.refuse(
                "hidden_act",
                f"is {reader.fields['hidden_act']!r}, which farspan does not model for this family",
            )
        self._experts = self._read_experts()
        self._mixer = self._read_mixer()
        needs_attention = family.parallel_mixers or any(
            kind in (FULL, SLIDING, CHUNKED) for kind in self.kinds
        )
        self._attention = self._read_attention() if needs_attention else {}
        reader.ignore("num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window")
        self._indexed = self._read_indexer()
        self._options = self._read_options()
        self._sources = self._kv_sources()
        self._widths = self._read_widths()
        weights = self.decoder.weights
        for index in range(self.layers):
            self._layer(weights.at_layer(index), index)
        self._whole_model(weights)
        head_dims = {
            kind: dims.latent.rope_dim if dims.latent else dims.head_dim
            for kind, dims in self._attention.items()
        }
        if not head_dims or not family.rope:
            for name in (
                "rope_parameters",
                "rope_scaling",
                "partial_rotary_factor",
                "rotary_dim",
                "rotary_pct",
                "rotary_emb_base",
            ):
                reader.ignore(name)
            return []
        return rope_tables(reader, head_dims, self.decoder.positions)

    def _read_attention(self) -> dict[str, _Attention]:
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
            return {FULL: _Attention(heads, 1, size, 0, latent=latent)}
        kv_heads = self._kv_heads(heads)
        head_dim = reader.integer("head_dim", 0, zero=True) or self.hidden // heads
        value_dim = reader.integer("v_head_dim", head_dim)
        full = _Attention(heads, kv_heads, head_dim, value_dim)
        found = {FULL: full}
        if SLIDING in self.kinds:
            window = reader.integer("sliding_window")
            prefix = "swa_"
            found[SLIDING] = _Attention(
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
            found[CHUNKED] = _Attention(
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

    def _read_mixer(self) -> Mixer | None:
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
        return read_mixer(self.family.linear, self.reader, self.hidden, self.dtype_bytes)

    def _read_indexer(self) -> list[IndexerSpec | None]:
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

    def _read_options(self) -> dict[str, bool]:
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

    def _kv_sources(self) -> list[int | None]:
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

    def _read_widths(self) -> list[int]:
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
        if self._experts is None:
            return self.family.norms > 1 or not self.family.linear
        return self.family.experts is not None and (
            self.family.experts.beside_dense or not all(self._experts[1])
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

    def _read_experts(self) -> tuple[MoeSpec, list[bool]] | None:
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

    def _layer(self, weights: WeightsBuilder, index: int) -> None:
        kind = self.kinds[index]
        attends = kind in (FULL, SLIDING, CHUNKED)
        routed = self._experts is not None and self._experts[1][index]
        if attends:
            self._attention_weights(weights, index)
        if self._mixer is not None and (kind == LINEAR or self.family.parallel_mixers):
            self._mixer.add(weights, "linear_attn" if kind == LINEAR else "mamba")
        if self.family.single_block:
            if kind == MLP:
                self._mlp(weights, self._widths[index])
            elif routed:
                self._routed(weights)
        else:
            if routed:
                self._routed(weights)
            if not routed or (self.family.experts is not None and self.family.experts.beside_dense):
                self._mlp(weights, self._widths[index])
        norms = self.family.norms + (2 if self._options["post_norms"] else 0)
        for number in range(norms if self.family.norm_weights else 0):
            weights.norm(f"layers.*.norm_{number}", self.hidden, bias=self.family.norm_bias)
        for name, shape in self.family.extra:
            weights.add(_NORM, f"layers.*.{name}", *(self._size(size) for size in shape))
        self._record(index, routed)

    def _size(self, name: str) -> int:
        return self.hidden if name == "hidden" else int(name) if name.isdigit() else self.reader.integer(name)

    def _attention_weights(self, weights: WeightsBuilder, index: int) -> None:
        family, options = self.family, self._options
        dims = self._attention[self.kinds[index] if self.kinds[index] in self._attention else FULL]
        if dims.latent is not None:
            blocks.latent_attention(weights, hidden=self.hidden, heads=dims.heads, latent=dims.latent)
            indexer = self._indexed[index]
            if indexer is not None:
                blocks.indexer(weights, indexer, hidden=self.hidden, rank=dims.latent.q_lora_rank)
        elif self._sources[index] is not None:
            blocks.query_only(
                weights,
                hidden=self.hidden,
                rows=dims.heads * dims.head_dim,
                norm=dims.head_dim if options["qk_norm"] else 0,
            )
        else:
            blocks.attention(
                weights,
                hidden=self.hidden,
                heads=dims.heads,
                kv_heads=dims.kv_heads,
                head_dim=dims.head_dim,
                value_dim=dims.value_dim,
                bias_qkv=options["bias_qkv"],
                bias_out=options["bias_out"],
                qk_norm=family.qk_norm if options["qk_norm"] else "",
                qk_norm_bias=family.qk_norm_bias,
                sinks=options["sinks"],
                value_projection=family.value_projection,
            )
        inner = dims.heads * (dims.latent.value_dim if dims.latent else dims.value_dim)
        if options["gate"]:
            rows = inner if family.gate == "wide" else dims.heads
            weights.linear(_ATTENTION, "layers.*.self_attn.g_proj", rows, self.hidden, Shard.SPLIT)
        if family.inner_norms:
            weights.norm("layers.*.self_attn.attn_sub_norm", inner)

    def _mlp(self, weights: WeightsBuilder, width: int) -> None:
        if not width:
            return
        bias, name = self._options["bias_mlp"], "layers.*.mlp"
        blocks.mlp(
            weights, name, hidden=self.hidden, width=width, gated=self.family.mlp == "gated", bias=bias
        )
        if self.family.inner_norms:
            weights.norm("layers.*.mlp.ffn_sub_norm", width)

    def _routed(self, weights: WeightsBuilder) -> None:
        declared, experts = self.family.experts, self._experts
        assert declared is not None
        assert experts is not None
        moe, name = experts[0], f"layers.*.{declared.name}"
        latent = self.reader.integer("moe_latent_size", 0, zero=True)
        spare = sum(self.reader.integer(field, 0, zero=True) for field in declared.spare)
        blocks.router(
            weights,
            count=moe.num_experts + spare,
            hidden=self.hidden,
            bias=declared.router_bias,
            correction=declared.correction and self.reader.text("topk_method", "noaux_tc") == "noaux_tc",
            name=f"{name}.gate",
        )
        blocks.experts(
            weights,
            count=moe.num_experts,
            hidden=latent or self.hidden,
            width=moe.intermediate_size,
            bias=declared.bias,
            name=f"{name}.experts",
            gated=declared.gated,
        )
        if latent:
            weights.linear(WeightPart.EXPERTS, f"{name}.fc1_latent_proj", latent, self.hidden)
            weights.linear(WeightPart.EXPERTS, f"{name}.fc2_latent_proj", self.hidden, latent)
        if moe.shared_intermediate_size:
            part = WeightPart.SHARED_EXPERTS
            shared = f"{name}.shared_expert" if declared.shared_gate else f"{name}.shared_experts"
            width = moe.shared_intermediate_size
            blocks.mlp(weights, shared, hidden=self.hidden, width=width, part=part, gated=declared.gated)
            if declared.shared_gate:
                weights.linear(part, f"{shared}_gate", 1, self.hidden, quantizable=False)

    def _record(self, index: int, routed: bool) -> None:
        """The layer's record, and one more for a mixer beside its attention."""
        kind = self.kinds[index]
        moe = self._experts[0] if routed and self._experts else None
        width = 0 if routed or (self.family.single_block and kind != MLP) else self._widths[index]
        position = len(self.decoder.layers)
        if kind in (FULL, SLIDING, CHUNKED):
            dims = self._attention[kind if kind in self._attention else FULL]
            attention = {
                FULL: AttentionKind.MLA if dims.latent else AttentionKind.FULL,
                SLIDING: AttentionKind.SLIDING_WINDOW,
                CHUNKED: AttentionKind.CHUNKED_LOCAL,
            }[kind]
            self.decoder.layers.append(
                LayerSpec(
                    index=position,
                    attention=attention,
                    num_heads=dims.heads,
                    num_kv_heads=dims.kv_heads,
                    head_dim=dims.head_dim,
                    value_head_dim=dims.value_dim,
                    window=dims.window,
                    rope=self.family.rope,
                    latent=dims.latent,
                    indexer=self._indexed[index],
                    shares_kv_with=self._sources[index],
                    intermediate_size=width,
                    moe=moe,
                )
            )
            if not self.family.parallel_mixers:
                return
            position, width, moe = position + 1, 0, None
        if self._mixer is not None and (kind == LINEAR or self.family.parallel_mixers):
            self.decoder.layers.append(
                LayerSpec(
                    index=position,
                    attention=AttentionKind.LINEAR,
                    num_heads=self._mixer.heads,
                    num_kv_heads=0,
                    head_dim=self._mixer.key_dim,
                    value_head_dim=self._mixer.value_dim,
                    rope=False,
                    states=self._mixer.states,
                    intermediate_size=width,
                    moe=moe,
                )
            )
        elif kind in (MLP, EXPERTS, NOTHING):
            self.decoder.layers.append(
                LayerSpec(
                    index=position,
                    attention=AttentionKind.NONE,
                    num_heads=0,
                    num_kv_heads=0,
                    head_dim=0,
                    value_head_dim=0,
                    rope=False,
                    intermediate_size=width,
                    moe=moe,
                )
            )

    def _whole_model(self, weights: WeightsBuilder) -> None:
        family, decoder = self.family, self.decoder
        if family.positions is not None:
            rows = decoder.positions + family.positions
            weights.add(WeightPart.EMBEDDING, "embed_positions", rows, self.hidden)
        if family.embedding_norm:
            weights.norm("embed_norm", self.hidden, bias=family.norm_bias)
        if family.norm_bias and family.final_norm:
            weights.add(_NORM, "norm.bias", self.hidden)
        if switch(self.reader, family.bias_head) and not decoder.tied:
            weights.add(WeightPart.LM_HEAD, "lm_head.bias", decoder.vocab, shard=Shard.SPLIT)
        for name, shape in family.whole:
            weights.add(_NORM, name, *(self._size(size) for size in shape))


def read_layers(decoder: Decoder, family: Family) -> list[RopeSpec]:
    """Read a decoder's layers by its family's declaration; returns its cos/sin tables.

    Raises:
        UnsupportedError: The config describes layers farspan does not model.
    """
    return DecoderReader(decoder, family).read()


__all__ = ["DecoderReader", "layer_count", "read_layers", "switch"]
