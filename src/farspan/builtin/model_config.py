"""What the built-in engine reads from a checkpoint's config.json: Llama 3 and Llama 4 text models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan.errors import CheckpointError, InputError
from farspan.models.config_json import check_bounds, read_config_json


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3.1's frequency scaling (`rope_type` llama3)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """What differs from layer to layer.

    Attributes:
        rope: Whether queries and keys are rotated.
        chunk: Attention chunk in tokens, or None for full attention.
        moe: Whether the feed-forward part is a mixture of experts.
    """

    rope: bool
    chunk: int | None
    moe: bool


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """A Llama 3 or Llama 4 text model, in Hugging Face's terms."""

    family: str  # "llama3" or "llama4"
    weight_prefix: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    intermediate_size_mlp: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    layers: tuple[LayerConfig, ...]
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_position_embeddings: int
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    use_qk_norm: bool
    attn_temperature_tuning: bool
    floor_scale: float
    attn_scale: float
    num_local_experts: int
    num_experts_per_tok: int
    torch_dtype: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]


def read_config(folder: Path) -> LlamaConfig:
    """Read config.json (and generation_config.json, for the end tokens) of a checkpoint folder.

    Raises:
        CheckpointError: The folder is not a checkpoint, or of a kind the built-in engine does not run.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder", "give the folder that holds config.json")
    path = folder / "config.json"
    raw = read_json(path)
    generation = folder / "generation_config.json"
    ends = read_json(generation).get("eos_token_id") if generation.is_file() else None
    prefix = ""
    try:
        check_bounds(raw, str(path))
        if raw.get("model_type") == "llama4" and "text_config" in raw:
            prefix = "language_model."
            raw = {**raw, **raw["text_config"]}
        config = _parse(raw, prefix, raw.get("eos_token_id") if ends is None else ends)
    except CheckpointError:
        raise
    except InputError as error:
        raise CheckpointError(error.message, error.fix) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} lacks or garbles {error}", "check that the checkpoint is whole"
        ) from error
    _check(config, path)
    return config


def _check(config: LlamaConfig, path: Path) -> None:
    """Check what the model is built from, so that a config is refused here and not somewhere in torch.

    Raises:
        CheckpointError: A size is not positive, or a number is none.
    """
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "intermediate_size_mlp",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "floor_scale",
    )
    for name in sizes:
        if not getattr(config, name) > 0:
            raise CheckpointError(f"{path}: {name} is {getattr(config, name)}", "it must be positive")
    if not config.layers:
        raise CheckpointError(
            f"{path} describes a model without layers", "check that the checkpoint is whole"
        )
    if config.head_dim % 2:
        raise CheckpointError(f"{path}: head_dim is {config.head_dim}", "it must be even")
    has_experts = any(layer.moe for layer in config.layers)
    if has_experts and not 1 <= config.num_experts_per_tok <= config.num_local_experts:
        raise CheckpointError(
            f"{path}: {config.num_experts_per_tok} of {config.num_local_experts} experts are to be taken",
            "check num_experts_per_tok and num_local_experts",
        )
    scaling = config.rope_scaling
    if scaling is not None and not (
        min(scaling.factor, scaling.low_freq_factor, scaling.original_max_position_embeddings) > 0
        and scaling.high_freq_factor >= scaling.low_freq_factor
    ):
        raise CheckpointError(
            f"{path}: the RoPE scaling {scaling} is impossible", "compare it with the hub's"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a checkpoint folder.

    Raises:
        CheckpointError: The file is missing, unreadable or not a JSON object.
    """
    if not path.exists():
        raise CheckpointError(f"{path.parent} has no {path.name}", "give a Hugging Face checkpoint folder")
    try:
        return read_config_json(path)
    except InputError as error:
        raise CheckpointError(error.message, "check that the checkpoint is whole") from error


def _parse(raw: dict[str, Any], prefix: str, ends: Any) -> LlamaConfig:
    model_type = raw.get("model_type")
    if model_type not in ("llama", "llama4_text", "llama4"):
        raise CheckpointError(
            f"the built-in engine does not run model_type {model_type!r}",
            "give a Llama 3 (llama) or Llama 4 text (llama4_text) checkpoint, or serve it with vLLM or SGLang",
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"hidden_act {raw['hidden_act']!r} is not run by the built-in engine")
    if raw.get("quantization_config"):
        raise CheckpointError(
            "the built-in engine does not run quantized checkpoints", "give the bf16 checkpoint instead"
        )
    llama4 = model_type != "llama"
    count = int(raw["num_hidden_layers"])
    heads = int(raw["num_attention_heads"])
    kv_heads = int(raw.get("num_key_value_heads") or heads)
    if count < 1 or heads < 1 or kv_heads < 1:
        raise CheckpointError(f"{count} layers of {heads} heads and {kv_heads} KV heads are no model")
    if heads % kv_heads:
        raise CheckpointError(f"{kv_heads} KV heads do not divide {heads} attention heads")
    theta, scaling = _rope(raw)
    return LlamaConfig(
        family="llama4" if llama4 else "llama3",
        weight_prefix=prefix,
        vocab_size=int(raw["vocab_size"]),
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        intermediate_size_mlp=int(raw.get("intermediate_size_mlp") or raw["intermediate_size"]),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
        layers=_llama4_layers(raw, count) if llama4 else (LayerConfig(True, None, False),) * count,
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-5)),
        rope_theta=theta,
        rope_scaling=scaling,
        max_position_embeddings=int(raw["max_position_embeddings"]),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        attention_bias=bool(raw.get("attention_bias", False)),
        mlp_bias=bool(raw.get("mlp_bias", False)),
        use_qk_norm=llama4 and bool(raw.get("use_qk_norm", True)),
        attn_temperature_tuning=llama4 and bool(raw.get("attn_temperature_tuning", True)),
        floor_scale=float(raw.get("floor_scale", 8192)),
        attn_scale=float(raw.get("attn_scale", 0.1)),
        num_local_experts=int(raw.get("num_local_experts", 16)) if llama4 else 0,
        num_experts_per_tok=int(raw.get("num_experts_per_tok", 1)),
        torch_dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=tuple(
            int(end) for end in (ends if isinstance(ends, list) else [ends]) if end is not None
        ),
    )


def _rope(raw: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    # transformers 5 keeps all of RoPE in rope_parameters; earlier releases have rope_theta beside rope_scaling.
    parameters = raw.get("rope_parameters") or {}
    scaling = parameters or raw.get("rope_scaling") or {}
    theta = float(parameters.get("rope_theta") or raw.get("rope_theta") or 500_000.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise CheckpointError(
            f"the built-in engine does not run rope_type {kind!r}", "it knows default and llama3"
        )
    return theta, RopeScaling(
        factor=float(scaling["factor"]),
        low_freq_factor=float(scaling["low_freq_factor"]),
        high_freq_factor=float(scaling["high_freq_factor"]),
        original_max_position_embeddings=int(scaling["original_max_position_embeddings"]),
    )


def _llama4_layers(raw: dict[str, Any], count: int) -> tuple[LayerConfig, ...]:
    """Mirror transformers' Llama4TextConfig: every fourth layer without RoPE, those with it chunked-local."""
    interval = int(raw.get("no_rope_layer_interval", 4))
    ropes = raw.get("no_rope_layers") or [int((i + 1) % interval != 0) for i in range(count)]
    step = int(raw.get("interleave_moe_layer_step", 1))
    moe = raw.get("moe_layers")
    if moe is None:
        moe = range(step - 1, count, step) if step > 0 else ()
    chunk = int(raw.get("attention_chunk_size") or 0)
    if chunk < 0:
        raise ValueError(f"attention_chunk_size, {chunk}")
    kinds = raw.get("layer_types") or ["chunked_attention" if rope else "full_attention" for rope in ropes]
    layers = []
    for i in range(count):
        if kinds[i] not in ("chunked_attention", "full_attention"):
            raise CheckpointError(f"the built-in engine does not run layer type {kinds[i]!r}")
        local = kinds[i] == "chunked_attention" and chunk > 0
        layers.append(LayerConfig(bool(ropes[i]), chunk if local else None, i in moe))
    return tuple(layers)
