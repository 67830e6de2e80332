"""DeepSeek V4: every layer keeps a short window of latents; most also keep latents of folded tokens."""

from __future__ import annotations

from farspan.models.families import blocks
from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.decoder import Decoder, flat
from farspan.models.families.module_names import ModuleNames
from farspan.models.families.quantization import MXFP4, Quantization
from farspan.models.families.rope import rope_section, section_table
from farspan.models.families.weights_builder import WeightsBuilder
from farspan.models.spec import AttentionKind, IndexerSpec, LayerSpec, ModelSpec, MoeSpec, StateTensor
from farspan.models.tensors import DTYPE_BYTES, RopeSpec, Shard, WeightPart

_ATTENTION, _INDEXER = WeightPart.ATTENTION, WeightPart.INDEXER
_FP32 = DTYPE_BYTES["float32"]
_OVERLAPPED_RATIO = 4  # ratio 4 folds overlapping windows, so its projections are twice as wide


def _attention_weights(decoder: Decoder, weights: WeightsBuilder, heads: int, head_dim: int) -> None:
    """Query, shared latent and the two-step grouped output (transformers 5.23 models/deepseek_v4)."""
    reader, hidden, name = decoder.reader, decoder.hidden, "layers.*.self_attn."
    rank, groups = reader.integer("q_lora_rank"), reader.integer("o_groups")
    out_rank = reader.integer("o_lora_rank")
    weights.add(_ATTENTION, name + "sinks", heads, shard=Shard.SPLIT, dtype_bytes=_FP32)
    weights.linear(_ATTENTION, name + "q_a_proj", rank, hidden)
    weights.norm(name + "q_a_norm", rank)
    weights.linear(_ATTENTION, name + "q_b_proj", heads * head_dim, rank, Shard.SPLIT)
    weights.linear(_ATTENTION, name + "kv_proj", head_dim, hidden)
    weights.norm(name + "kv_norm", head_dim)
    columns = heads * head_dim // groups
    weights.linear(_ATTENTION, name + "o_a_proj", groups * out_rank, columns, Shard.SPLIT)
    weights.linear(_ATTENTION, name + "o_b_proj", hidden, groups * out_rank, Shard.SPLIT)


def _compressor(
    weights: WeightsBuilder, name: str, part: WeightPart, hidden: int, dim: int, ratio: int
) -> None:
    """Folds `ratio` tokens into one latent of `dim`; whole on every rank."""
    width = dim * (2 if ratio == _OVERLAPPED_RATIO else 1)
    weights.add(part, name + "position_bias", ratio, width, dtype_bytes=_FP32)
    weights.linear(part, name + "kv_proj", width, hidden, quantizable=False)
    weights.linear(part, name + "gate_proj", width, hidden, quantizable=False)
    weights.norm(name + "kv_norm", dim, part=part)


def _states(ratio: int, dims: list[int]) -> tuple[StateTensor, ...]:
    """The compressors' float32 running state: key and score of the tokens being folded (vllm 0.32.0
    models/deepseek_v4/compressor.py: CompressorStateCache)."""
    fold = 2 if ratio == _OVERLAPPED_RATIO else 1
    return tuple(StateTensor("compressor", (fold * ratio, 2 * fold * dim), _FP32, -1) for dim in dims)


def _hyper_connections(weights: WeightsBuilder, hidden: int, streams: int) -> None:
    mixes = (2 + streams) * streams
    for name in ("attn_hc", "ffn_hc"):
        weights.add(WeightPart.NORM, f"layers.*.{name}.fn", mixes, streams * hidden, dtype_bytes=_FP32)
        weights.add(WeightPart.NORM, f"layers.*.{name}.base", mixes, dtype_bytes=_FP32)
        weights.add(WeightPart.NORM, f"layers.*.{name}.scale", 3, dtype_bytes=_FP32)


def _layers(decoder: Decoder) -> None:
    reader, hidden = decoder.reader, decoder.hidden
    heads, head_dim = reader.integer("num_attention_heads"), reader.integer("head_dim")
    window, streams = reader.integer("sliding_window"), reader.integer("hc_mult")
    indexer = IndexerSpec(
        num_heads=reader.integer("index_n_heads"),
        head_dim=reader.integer("index_head_dim"),
        top_k=reader.integer("index_topk"),
    )
    width = reader.integer("moe_intermediate_size")
    moe = MoeSpec(
        num_experts=reader.integer("n_routed_experts"),
        top_k=reader.integer("num_experts_per_tok"),
        intermediate_size=width,
        shared_intermediate_size=width * reader.integer("n_shared_experts", 0, zero=True),
    )
    hashed = reader.integer("num_hash_layers", 0, zero=True)
    # One entry a layer; the config lists its MTP layers after them.
    ratios = reader.integers("compress_ratios")[: decoder.num_layers]
    if len(ratios) != decoder.num_layers or set(ratios) - {0, 4, 128}:
        reader.refuse("compress_ratios", f"does not give one of 0, 4, 128 for {decoder.num_layers} layers")
    rank = reader.integer("q_lora_rank")
    for index in range(decoder.num_layers):
        weights, ratio = decoder.weights.at_layer(index), ratios[index]
        _attention_weights(decoder, weights, heads, head_dim)
        has_indexer = ratio == _OVERLAPPED_RATIO
        dims = []
        if ratio:
            name = "layers.*.self_attn.compressor."
            _compressor(weights, name, _ATTENTION, hidden, head_dim, ratio)
            dims.append(head_dim)
        if has_indexer:
            name = "layers.*.self_attn.compressor.indexer."
            _compressor(weights, name, _INDEXER, hidden, indexer.head_dim, ratio)
            weights.linear(_INDEXER, name + "q_b_proj", indexer.num_heads * indexer.head_dim, rank)
            scorer = name + "scorer.weights_proj"
            weights.linear(_INDEXER, scorer, indexer.num_heads, hidden, quantizable=False)
            dims.append(indexer.head_dim)
        _hyper_connections(weights, hidden, streams)
        blocks.router(weights, count=moe.num_experts, hidden=hidden, correction=index >= hashed)
        if index < hashed:
            table = "layers.*.mlp.gate.tid2eid"
            weights.add(WeightPart.ROUTER, table, decoder.vocab, moe.top_k, dtype_bytes=8)
        blocks.experts(weights, count=moe.num_experts, hidden=hidden, width=width)
        shared, part = moe.shared_intermediate_size, WeightPart.SHARED_EXPERTS
        blocks.gated_mlp(weights, "layers.*.mlp.shared_experts", hidden=hidden, width=shared, part=part)
        blocks.layer_norms(weights, hidden)
        decoder.layers.append(
            LayerSpec(
                index=index,
                attention=AttentionKind.COMPRESSED,
                num_heads=heads,
                num_kv_heads=1,
                head_dim=head_dim,
                value_head_dim=0,
                window=window,
                indexer=indexer if has_indexer else None,
                states=_states(ratio, dims) if ratio else (),
                tokens_per_entry=ratio,
                moe=moe,
            )
        )
    weights = decoder.weights
    weights.add(WeightPart.NORM, "hc_head.hc_fn", streams, streams * hidden, dtype_bytes=_FP32)
    weights.add(WeightPart.NORM, "hc_head.hc_base", streams, dtype_bytes=_FP32)
    weights.add(WeightPart.NORM, "hc_head.hc_scale", 1, dtype_bytes=_FP32)


def _expert_dtype(decoder: Decoder) -> None:
    """`expert_dtype` fp4 keeps the routed experts in MXFP4: 4 bits and one scale byte per 32 weights.

    A quantization_config beside it says how everything else is kept; without one, in the model's dtype. One that
    names a format for the experts is believed.
    """
    reader = decoder.reader
    reader.expect("expert_dtype", "fp4", "fp8")
    if reader.text("expert_dtype", "") != "fp4":
        return
    quantization = decoder.weights.quantization
    if quantization is None:
        decoder.weights.quantization = Quantization([(ModuleNames.experts(), MXFP4)])
    elif not any(names.experts_only for names, _ in quantization.rules):
        quantization.rules.insert(0, (ModuleNames.experts(), MXFP4))


def _ropes(reader: ConfigReader, positions: int) -> list[RopeSpec]:
    """Plain RoPE for windows, YaRN for compressed latents (vllm 0.32.0 deepseek_v4/common/rope.py)."""
    size = reader.integer("qk_rope_head_dim")
    section = rope_section(reader)
    tables = [RopeSpec(size, positions)]
    if section is not None:
        tables.append(section_table(section, size, positions))
    return tables


def read(reader: ConfigReader, name: str) -> ModelSpec:
    """Read a config of this family (see `farspan.models.families`)."""
    decoder = flat(reader, name)
    _expert_dtype(decoder)
    _layers(decoder)
    reader.expect("attention_bias", False)
    reader.expect("hidden_act", "silu")
    reader.expect("num_key_value_heads", 1)
    # Sinkhorn steps, routing and clipping change activations; MTP layers load for speculation only.
    reader.ignore("hc_eps", "hc_sinkhorn_iters", "num_nextn_predict_layers", "norm_topk_prob")
    reader.ignore("routed_scaling_factor", "scoring_func", "swiglu_limit", "topk_method")
    reader.ignore("rope_theta", "compress_rope_theta")
    return decoder.build(_ropes(reader, decoder.positions))
