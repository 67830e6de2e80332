"""Gemma 3n: Gemma 3's attention, KV shared by the last layers, and what AltUp and LAuReL add to each layer."""

from __future__ import annotations

from farspan.models.families.decoder import Decoder
from farspan.models.tensors import Shard, WeightPart


def adjust(decoder: Decoder) -> None:
    """Add the weights of alternating updates, learned low-rank residuals and per-layer inputs (transformers 5.23
    models/gemma3n/modeling_gemma3n.py)."""
    reader, hidden, weights = decoder.reader, decoder.hidden, decoder.weights
    size = reader.integer("hidden_size_per_layer_input")
    vocab = reader.integer("vocab_size_per_layer_input")
    streams, rank = reader.integer("altup_num_inputs"), reader.integer("laurel_rank")
    total, part = decoder.num_layers * size, WeightPart.EMBEDDING
    weights.add(part, "embed_tokens_per_layer", vocab, total, shard=Shard.VOCAB)
    weights.linear(part, "per_layer_model_projection", total, hidden, Shard.SPLIT)
    weights.norm("per_layer_projection_norm", size)
    weights.linear(WeightPart.DENSE_MLP, "altup_projections", hidden, hidden, copies=2 * (streams - 1))
    for index in range(decoder.num_layers):
        layer, mlp = weights.at_layer(index), WeightPart.DENSE_MLP
        layer.linear(mlp, "layers.*.per_layer_input_gate", size, hidden)
        layer.linear(mlp, "layers.*.per_layer_projection", hidden, size)
        layer.linear(mlp, "layers.*.laurel.linear_left", rank, hidden)
        layer.linear(mlp, "layers.*.laurel.linear_right", hidden, rank)
        for name in ("laurel.post_laurel_norm", "post_per_layer_input_norm", "altup.router_norm"):
            layer.norm(f"layers.*.{name}", hidden)
        layer.norm("layers.*.altup.correct_output_scale", hidden)
        layer.add(mlp, "layers.*.altup.modality_router", streams, hidden)
        layer.add(mlp, "layers.*.altup.coefficients", streams + streams**2, streams)
