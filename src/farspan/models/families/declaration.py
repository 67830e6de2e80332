"""What a family declares: how its layers are built where a config does not say.

A `Switch` is True, False, the name of a config field that decides (False where it is absent), or such a name with
`=true` behind it (True where it is absent).
"""

from __future__ import annotations

from dataclasses import dataclass, field

Switch = bool | str


@dataclass(frozen=True, slots=True)
class Experts:
    """The mixture of experts of a family.

    Args:
        sparse: Which layers have experts when `mlp_layer_types` does not say: "all", "first_dense"
            (`first_k_dense_replace` dense layers, then every `moe_layer_freq`-th), "step" (`decoder_sparse_step`,
            `mlp_only_layers`), "period" (`expert_layer_period` and `expert_layer_offset`), "range"
            (`moe_layer_start_index` to `moe_layer_end_index`, every `moe_layer_interval`-th), "none".
        width: Fields of one expert's width, the first present counts.
        shared: How wide the shared experts are together: "" for none, "count" (their number times an expert's
            width), "width" (a field of their own), "width x count".
        shared_gate: Whether a one-row projection gates them.
        correction: Whether the router has a float32 score bias.
        router_bias: Whether the router's projection has a bias.
        bias: Whether the experts' projections have biases.
        gated: Whether an expert has a gate projection.
        name: What checkpoints call the layer's block of experts.
        spare: Fields of expert slots that have no weights but a row of the router.
        beside_dense: Whether the dense MLP runs beside the experts in every layer.
        dense: Fields of the dense layers' width, the first present counts.
    """

    sparse: str = "all"
    width: tuple[str, ...] = ("moe_intermediate_size", "intermediate_size")
    shared: str = ""
    shared_gate: bool = False
    correction: bool = False
    router_bias: bool = False
    bias: bool = False
    gated: bool = True
    name: str = "mlp"
    spare: tuple[str, ...] = ()
    beside_dense: bool = False
    dense: tuple[str, ...] = ("intermediate_size",)


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture's decoder.

    Args:
        section: Dotted path of the fields that hold the decoder's config; empty at the top of the config.
        prefix: What checkpoints put before the decoder's names.
        latent: Whether attention keeps one latent a token (MLA).
        linear: What layers that are not attention keep: "gdn", "kda", "mamba1", "mamba2", "lightning", "conv".
        parallel_mixers: Whether every layer has attention and such a mixer side by side.
        single_block: Whether each layer is a mixer or an MLP, not both.
        windows: Which layers slide when `layer_types` does not say: "none", "all" (where `sliding_window` is set),
            "some" (layers from `max_window_layers` on, where `use_sliding_window` is set), "pattern" (all but every
            `sliding_window_pattern`-th).
        period: That pattern's period where the config does not give it.
        bias_qkv, bias_out, bias_mlp, bias_head: Which projections have biases.
        qk_norm: "head" for one scale a head dimension, "full" for one over all heads, "" for none.
        qk_norm_if: Whether those norms are there.
        qk_norm_bias: Whether they have shifts.
        value_projection: Whether values have a projection of their own.
        gate: The output gate: "wide" as wide as the heads' outputs, "head" one value a head, "latent" a low-rank pair.
        gate_if: Whether the gate is there.
        sinks: Whether each head has a learned sink.
        kv_heads: Key/value heads where the config gives none: "heads", or "one".
        mlp: "gated" (gate, up, down) or "plain" (up, down).
        width_rule: How a layer's width follows from others where the config has none: "", "4x", "swiglu" (QWen),
            "lfm" (LFM2).
        norms: Norms of the hidden size in each layer.
        post_norms: Whether two more follow the attention and the MLP.
        norm_bias: Whether norms have shifts.
        norm_weights: Whether norms have weights at all.
        final_norm: Whether there is a norm after the last layer.
        inner_norms: Norms over the attention's and the MLP's inner widths (BitNet).
        positions: Rows that a learned position table has beyond `max_position_embeddings`; None without one.
        embedding_norm: Whether a norm follows the embedding.
        tied: Whether the head is the embedding where the config does not say.
        rope: Whether positions are rotated (False for learned positions and ALiBi).
        plain_windows: Whether sliding layers rotate without the scaling that full layers have.
        experts: The mixture of experts, if any.
        extra: Weights of one layer that nothing above describes, as (name, shape in names of dimensions).
        whole: Such weights of the whole model.
        defaults: Values of fields that published configs leave out.
        harmless: Fields that change no byte for this family.
        expects: Fields that must have one of these values, since farspan models no other.
        code: What is really different, by its name in `rewrites` (the config's fields before they are read) or
            `adjustments` (the decoder after its layers are read).
        note: What a reader of any figure must know.
    """

    section: str = ""
    prefix: str = "model."
    latent: bool = False
    linear: str = ""
    parallel_mixers: bool = False
    single_block: bool = False
    windows: str = "none"
    period: int = 0
    bias_qkv: Switch = "attention_bias"
    bias_out: Switch = "attention_bias"
    bias_mlp: Switch = "mlp_bias"
    bias_head: Switch = "lm_head_bias"
    qk_norm: str = ""
    qk_norm_if: Switch = True
    qk_norm_bias: bool = False
    value_projection: bool = True
    gate: str = ""
    gate_if: Switch = True
    sinks: Switch = False
    kv_heads: str = "heads"
    mlp: str = "gated"
    width_rule: str = ""
    norms: int = 2
    post_norms: Switch = False
    norm_bias: bool = False
    norm_weights: bool = True
    final_norm: bool = True
    inner_norms: bool = False
    positions: int | None = None
    embedding_norm: bool = False
    tied: bool = False
    rope: bool = True
    plain_windows: bool = False
    experts: Experts | None = None
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    whole: tuple[tuple[str, tuple[str, ...]], ...] = ()
    defaults: tuple[tuple[str, object], ...] = ()
    harmless: tuple[str, ...] = ()
    expects: tuple[tuple[str, tuple[object, ...]], ...] = field(default=())
    code: str = ""
    note: str = ""
