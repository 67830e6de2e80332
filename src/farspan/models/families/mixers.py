"""Layers that keep a state of fixed size instead of keys and values: weights and states of each kind.

State shapes are vLLM's (vllm 0.32.0 layers/mamba/mamba_utils.py: MambaStateShapeCalculator); weights follow
transformers 5.23, where it has the class.
"""

from __future__ import annotations

from dataclasses import dataclass

from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.weights_builder import WeightsBuilder
from farspan.models.spec import CONVOLUTION, StateTensor
from farspan.models.tensors import DTYPE_BYTES, Shard, WeightPart

_PART, _SPLIT = WeightPart.ATTENTION, Shard.SPLIT
_FP32 = DTYPE_BYTES["float32"]


@dataclass(frozen=True, slots=True)
class Mixer:
    """The dimensions of one kind of recurrent layer.

    Args:
        heads: Heads that tensor parallelism divides.
        key_dim: Size of one head's key side.
        value_dim: Size of one head's value side.
        states: What one request keeps of it.
        weights: Its tensors, as (name, shape, whether it is a projection, whether every rank holds it whole).
        grouped: Rows of them that belong to groups of heads, as (name, shape, whether it is a projection).
        groups: The number of those groups.
    """

    heads: int
    key_dim: int
    value_dim: int
    states: tuple[StateTensor, ...]
    weights: tuple[tuple[str, tuple[int, ...], bool, bool], ...]
    grouped: tuple[tuple[str, tuple[int, ...], bool], ...] = ()
    groups: int = 0

    def add(self, weights: WeightsBuilder, name: str) -> None:
        """Record one layer's tensors under `name`."""
        for tensor, shape, projection, whole in self.weights:
            if tensor in ("norm", "o_norm") and whole:
                weights.norm(f"layers.*.{name}.{tensor}", *shape)
                continue
            shard = Shard.REPLICATED if whole else _SPLIT
            weights.add(_PART, f"layers.*.{name}.{tensor}", *shape, shard=shard, quantizable=projection)
        for tensor, shape, projection in self.grouped:
            full = f"layers.*.{name}.{tensor}"
            weights.add(_PART, full, *shape, shard=Shard.KV_HEADS, units=self.groups, quantizable=projection)


def read_mixer(kind: str, reader: ConfigReader, hidden: int, dtype_bytes: int) -> Mixer:
    """Read the fields of one kind of recurrent layer."""
    return _KINDS[kind](reader, hidden, dtype_bytes)


_CHUNK = 2048  # where the config names none


def _state_bytes(reader: ConfigReader, default: int) -> int:
    """Bytes of one value of the recurrent state (`mamba_ssm_cache_dtype`, `mamba_ssm_dtype`)."""
    for name in ("mamba_ssm_cache_dtype", "mamba_ssm_dtype"):
        if name in reader:
            value = reader.text(name)
            if value not in DTYPE_BYTES:
                reader.refuse(name, f"is {value!r}")
            return DTYPE_BYTES[value]
    return default


def _chunk(reader: ConfigReader) -> int:
    """Tokens a kernel of Mamba 2 folds at once (vllm 0.27.1 config/model.py: get_mamba_chunk_size)."""
    return reader.integer("mamba_chunk_size", reader.integer("chunk_size", _CHUNK))


def gated_delta_net(reader: ConfigReader, hidden: int, dtype_bytes: int) -> Mixer:
    """Gated DeltaNet (Qwen 3.5, Qwen 3 Next, OLMo hybrid); its state has the model's dtype unless the config says."""
    key_heads, value_heads = reader.integer("linear_num_key_heads"), reader.integer("linear_num_value_heads")
    key_dim, value_dim = reader.integer("linear_key_head_dim"), reader.integer("linear_value_head_dim")
    kernel = reader.integer("linear_conv_kernel_dim")
    inner = value_heads * value_dim
    channels = 2 * key_heads * key_dim + inner
    return Mixer(
        value_heads,
        key_dim,
        value_dim,
        (
            StateTensor(CONVOLUTION, (channels, kernel - 1), dtype_bytes, 0),
            StateTensor("recurrent", (value_heads, value_dim, key_dim), _state_bytes(reader, dtype_bytes), 0),
        ),
        (
            ("dt_bias", (value_heads,), False, False),
            ("A_log", (value_heads,), False, False),
            ("conv1d", (channels, 1, kernel), False, False),
            ("norm", (value_dim,), False, True),
            ("in_proj_qkv", (channels, hidden), True, False),
            ("in_proj_z", (inner, hidden), True, False),
            ("in_proj_b", (value_heads, hidden), True, False),
            ("in_proj_a", (value_heads, hidden), True, False),
            ("out_proj", (hidden, inner), True, False),
        ),
    )


def kimi_delta_attention(reader: ConfigReader, hidden: int, dtype_bytes: int) -> Mixer:
    """Kimi Delta Attention (vllm 0.33.0 models/kimi_linear.py, kda.py). The gates are low-rank pairs, or whole."""
    section = reader.section("linear_attn_config") or reader
    heads = section.integer("linear_num_heads" if "linear_num_heads" in section else "num_heads")
    dim = section.integer("linear_head_dim" if "linear_head_dim" in section else "head_dim")
    kernels = [name for name in ("short_conv_kernel_size", "linear_conv_kernel_dim") if name in section]
    kernel = section.integer(kernels[0] if kernels else "short_conv_kernel_size")
    section.ignore("linear_conv_kernel_dim", "short_conv_kernel_size", "kda_layers", "full_attn_layers")
    whole_gates = (
        section.flag("use_full_rank_gate", False) or reader.text("model_type", "") == "bailing_hybrid"
    )
    if section is not reader:
        section.finish()
    inner = heads * dim
    gates: tuple[tuple[str, tuple[int, ...], bool, bool], ...]
    if whole_gates:
        gates = (("f_proj", (inner, hidden), True, False), ("g_proj", (inner, hidden), True, False))
    else:
        gates = (
            ("f_a_proj", (dim, hidden), True, True),
            ("f_b_proj", (inner, dim), True, False),
            ("g_a_proj", (dim, hidden), True, True),
            ("g_b_proj", (inner, dim), True, False),
        )
    return Mixer(
        heads,
        dim,
        dim,
        (
            StateTensor(CONVOLUTION, (3 * inner, kernel - 1), dtype_bytes, 0),
            StateTensor("recurrent", (heads, dim, dim), _FP32, 0),
        ),
        (
            ("q_proj", (inner, hidden), True, False),
            ("k_proj", (inner, hidden), True, False),
            ("v_proj", (inner, hidden), True, False),
            *gates,
            ("b_proj", (heads, hidden), True, False),
            ("conv1d", (3 * inner, 1, kernel), False, False),
            ("dt_bias", (inner,), False, False),
            ("A_log", (heads,), False, False),
            ("o_norm", (dim,), False, True),
            ("o_proj", (hidden, inner), True, False),
        ),
    )


def _name(reader: ConfigReader, *names: str) -> str:
    """The first of the names that the config has; the first when it has none."""
    return next((name for name in names if name in reader), names[0])


def mamba2(reader: ConfigReader, hidden: int, dtype_bytes: int) -> Mixer:
    """Mamba 2 (Nemotron-H, Granite 4, Bamba, Falcon-H1); the state is kept in the model's dtype unless the config says
    otherwise.

    Keys and queries are shared by groups of heads; a lone group is copied to every rank (vllm 0.33.0
    layers/mamba/mamba_utils.py: extra_groups_for_head_shards; sglang 0.5.23 srt/configs/mamba_utils.py).
    """
    expand = reader.integer(_name(reader, "mamba_expand", "expand"), 2)
    heads = reader.integer(_name(reader, "mamba_num_heads", "mamba_n_heads", "n_mamba_heads", "num_heads"))
    size_name = _name(reader, "mamba_head_dim", "mamba_d_head", "mamba_headdim")
    if size_name in reader:
        value = reader.fields.get(size_name)
        dim = expand * hidden // heads if value == "auto" else reader.integer(size_name)
        reader.ignore(size_name)
    else:
        dim = reader.integer("head_dim")
    inner = reader.integer("mamba_d_ssm", heads * dim)
    groups = reader.integer(_name(reader, "n_groups", "mamba_n_groups", "mamba_ngroups"), 1)
    state = reader.integer(_name(reader, "ssm_state_size", "mamba_d_state", "state_size"))
    kernel = reader.integer(_name(reader, "conv_kernel", "mamba_d_conv"), 4)
    conv_bias = reader.flag(_name(reader, "use_conv_bias", "mamba_conv_bias"), True)
    bias = reader.flag(_name(reader, "mamba_proj_bias", "use_bias", "add_bias_linear"), False)
    normed = reader.flag("mamba_rms_norm", True)
    shared = 2 * groups * state
    channels = inner + shared
    rows = 2 * inner + heads
    return Mixer(
        heads,
        state,
        dim,
        (
            StateTensor(CONVOLUTION, (channels, kernel - 1), dtype_bytes, 0, groups, 2 * state),
            StateTensor(
                "recurrent", (heads, dim, state), _state_bytes(reader, dtype_bytes), 0, chunk=_chunk(reader)
            ),
        ),
        (
            ("dt_bias", (heads,), False, False),
            ("A_log", (heads,), False, False),
            ("D", (heads,), False, False),
            ("conv1d", (inner, 1, kernel), False, False),
            *((("conv1d.bias", (inner,), False, False),) if conv_bias else ()),
            ("in_proj", (rows, hidden), True, False),
            *(
                (("in_proj.bias", (rows,), False, False), ("out_proj.bias", (hidden,), False, True))
                if bias
                else ()
            ),
            *((("norm", (inner,), False, False),) if normed else ()),
            ("out_proj", (hidden, inner), True, False),
        ),
        (
            ("conv1d", (shared, 1, kernel), False),
            *((("conv1d.bias", (shared,), False),) if conv_bias else ()),
            ("in_proj", (shared, hidden), True),
            *((("in_proj.bias", (shared,), False),) if bias else ()),
        ),
        groups,
    )


def mamba1(reader: ConfigReader, hidden: int, dtype_bytes: int) -> Mixer:
    """Mamba (Jamba, Falcon Mamba)."""
    expand = reader.integer(_name(reader, "mamba_expand", "expand"), 2)
    inner = (
        expand * hidden if "mamba_expand" in reader else reader.integer("intermediate_size", expand * hidden)
    )
    state = reader.integer(_name(reader, "mamba_d_state", "state_size"), 16)
    kernel = reader.integer(_name(reader, "mamba_d_conv", "conv_kernel"), 4)
    rank_name = _name(reader, "mamba_dt_rank", "time_step_rank")
    rank = -(-hidden // 16) if reader.fields.get(rank_name) == "auto" else reader.integer(rank_name)
    reader.ignore(rank_name)
    conv_bias = reader.flag(_name(reader, "mamba_conv_bias", "use_conv_bias"), True)
    bias = reader.flag(_name(reader, "mamba_proj_bias", "use_bias"), False)
    normed = "mamba_expand" in reader
    return Mixer(
        inner,
        state,
        1,
        (
            StateTensor(CONVOLUTION, (inner, kernel - 1), dtype_bytes, 0),
            StateTensor("recurrent", (inner, state), _state_bytes(reader, dtype_bytes), 0, chunk=_CHUNK),
        ),
        (
            ("A_log", (inner, state), False, False),
            ("D", (inner,), False, False),
            ("conv1d", (inner, 1, kernel), False, False),
            *((("conv1d.bias", (inner,), False, False),) if conv_bias else ()),
            ("in_proj", (2 * inner, hidden), True, False),
            ("x_proj", (rank + 2 * state, inner), True, False),
            ("dt_proj", (inner, rank), True, False),
            ("dt_proj.bias", (inner,), False, False),
            ("out_proj", (hidden, inner), True, False),
            *(
                (("in_proj.bias", (2 * inner,), False, False), ("out_proj.bias", (hidden,), False, True))
                if bias
                else ()
            ),
            *((("inner_norms", (rank + 2 * state,), False, True),) if normed else ()),
        ),
    )


def lightning(reader: ConfigReader, hidden: int, dtype_bytes: int) -> Mixer:
    """Lightning attention (MiniMax-01, Ring linear): one square matrix a head."""
    heads = reader.integer("num_attention_heads")
    dim = reader.integer("head_dim", hidden // heads)
    inner = heads * dim
    return Mixer(
        heads,
        dim,
        dim,
        (StateTensor("recurrent", (heads, dim, dim), _state_bytes(reader, dtype_bytes), 0),),
        (
            ("qkv_proj", (3 * inner, hidden), True, False),
            ("output_gate", (inner, hidden), True, False),
            ("out_proj", (hidden, inner), True, False),
            ("norm", (inner,), False, False),
        ),
    )


def short_convolution(reader: ConfigReader, hidden: int, dtype_bytes: int) -> Mixer:
    """LFM2's gated short convolution (vllm 0.33.0 layers/mamba/short_conv.py)."""
    kernel = reader.integer("conv_L_cache")
    width = reader.integer("conv_dim", hidden)
    bias = reader.flag("conv_bias", False)
    reader.ignore("conv_dim_out", "conv_use_xavier_init")
    return Mixer(
        reader.integer("num_attention_heads"),
        0,
        0,
        (StateTensor(CONVOLUTION, (width, kernel - 1), dtype_bytes, 0),),
        (
            ("conv", (width, 1, kernel), False, False),
            ("in_proj", (3 * width, hidden), True, False),
            ("out_proj", (hidden, width), True, False),
            *(
                (
                    ("conv.bias", (width,), False, False),
                    ("in_proj.bias", (3 * width,), False, False),
                    ("out_proj.bias", (hidden,), False, True),
                )
                if bias
                else ()
            ),
        ),
    )


_KINDS = {
    "gdn": gated_delta_net,
    "kda": kimi_delta_attention,
    "mamba1": mamba1,
    "mamba2": mamba2,
    "lightning": lightning,
    "conv": short_convolution,
}
