"""The one reader of decoders: a family's declaration and a config make layers and weights."""

from __future__ import annotations

from farspan.models.families import blocks
from farspan.models.families.declaration import Family
from farspan.models.families.decoder import Decoder
from farspan.models.families.decoder_dimensions import DimensionReader, switch
from farspan.models.families.layer_kinds import (
    CHUNKED,
    EXPERTS,
    FULL,
    LINEAR,
    MLP,
    NOTHING,
    SLIDING,
)
from farspan.models.families.rope import rope_tables
from farspan.models.families.weights_builder import WeightsBuilder
from farspan.models.spec import AttentionKind, LayerSpec
from farspan.models.tensors import RopeSpec, Shard, WeightPart

# Activations of MLPs without a gate, which have two projections rather than three.
_UNGATED = ("relu2", "xielu")
_ATTENTION, _NORM = WeightPart.ATTENTION, WeightPart.NORM


class DecoderReader(DimensionReader):
    """Reads one decoder into a `Decoder`.

    Args:
        decoder: What has been read so far; layers and weights go into it.
        family: The declaration.
    """

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
        self._mixer = self.read_mixer_dims()
        needs_attention = family.parallel_mixers or any(
            kind in (FULL, SLIDING, CHUNKED) for kind in self.kinds
        )
        self._attention = self.read_attention() if needs_attention else {}
        reader.ignore("num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window")
        self._indexed = self.read_indexers()
        self._options = self.read_options()
        self._sources = self.read_kv_sources()
        self._widths = self.read_widths()
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
        return rope_tables(reader, head_dims, self.decoder.positions, plain_windows=family.plain_windows)

    def _layer(self, weights: WeightsBuilder, index: int) -> None:
        kind = self.kinds[index]
        attends = kind in (FULL, SLIDING, CHUNKED)
        routed = self.experts is not None and self.experts[1][index]
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
        declared, experts = self.family.experts, self.experts
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
        moe = self.experts[0] if routed and self.experts else None
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
