"""The language model of a config alone, and some of its layers, with its fields at the top."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from farspan.errors import UnsupportedError
from farspan.models.families.field_names import spellings
from farspan.models.families.quantization import SKIPPED_MODULES
from farspan.models.families.wrappers import TEXT_DEFAULTS, TEXT_TYPES, WRAPPERS, Wrapper

# Architectures around a decoder that the tables of wrappers leave to code of their own.
_OWN_WRAPPERS = {
    "Llama4ForConditionalGeneration": Wrapper("Llama4ForCausalLM", prefix="language_model.model."),
    "Gemma4ForConditionalGeneration": Wrapper("Gemma4ForCausalLM", tied=True),
}
# Decoders that engines serve under another name, and the `model_type` that goes with it.
_SERVED_AS = {"MiniMaxM3ForCausalLM": ("MiniMaxM3SparseForCausalLM", "mixtral")}
# Decoders to which an engine gives positions of their own in pictures (vllm 0.33.0 models/qwen3_5.py: SupportsMRoPE).
_PICTURE_POSITIONS = ("Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM")
_ROPE_SECTIONS = ("rope_scaling", "rope_parameters")
# What a multimodal config says at its top for the whole.
_SHARED = (
    "quantization_config",
    "compression_config",
    "torch_dtype",
    "dtype",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
# Lists of layer numbers, not one entry a layer.
_NUMBERS = ("moe_layers", "mlp_only_layers")
# The same, counted from 1, in the section of recurrent layers; another section may have lists of one entry a layer.
_NUMBERS_FROM_ONE = ("full_attn_layers", "kda_layers")
_SECTIONS = ("linear_attn_config", "sparse_attention_config")


def extract_text(config: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return a decoder's config with its fields at the top, and whether something around it was dropped.

    Raises:
        UnsupportedError: The decoder inside has no architecture of its own.
    """
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else ""
    wrapper = WRAPPERS.get(architecture) or _OWN_WRAPPERS.get(architecture)
    sections = (wrapper or Wrapper()).sections
    section = next((name for name in sections if isinstance(config.get(name), Mapping)), None)
    if section is None and wrapper is not None and wrapper.text:
        return _take_top(config, wrapper), True
    if section is None:
        fields = copy.deepcopy(dict(config))
        fields.pop("auto_map", None)
        _name_as_served(fields)
        return fields, False
    text = copy.deepcopy(dict(config[section]))
    kind = str(text.get("model_type") or "")
    inner = (wrapper.text if wrapper else "") or TEXT_TYPES.get(kind, "")
    named = text.get("architectures")
    if not inner and isinstance(named, list) and named:
        inner = str(named[0])
    if not inner:
        raise UnsupportedError(f"the decoder inside {architecture} has no architecture of its own")
    for name, value in TEXT_DEFAULTS.get(kind, {}).items():
        text.setdefault(name, value)
    for name in _SHARED:
        if name in config and text.get(name) is None:
            text[name] = copy.deepcopy(config[name])
    if isinstance(config.get("tie_word_embeddings"), bool):
        text["tie_word_embeddings"] = config["tie_word_embeddings"]  # what the whole says counts
    elif wrapper is not None and wrapper.tied is not None:
        text.setdefault("tie_word_embeddings", wrapper.tied)
    text["architectures"] = [inner]
    text.pop("auto_map", None)
    _name_as_served(text)
    _drop_picture_positions(text)
    _rename_modules(text, wrapper.prefix if wrapper else "model.language_model.")
    return text, True


def _take_top(config: Mapping[str, Any], wrapper: Wrapper) -> dict[str, Any]:
    """The decoder of a config that has its encoders' sections beside the decoder's own fields."""
    text = {
        name: copy.deepcopy(value)
        for name, value in config.items()
        if name not in ("vision_config", "audio_config", "auto_map")
    }
    kinds = {architecture: kind for kind, architecture in TEXT_TYPES.items()}
    text |= {"architectures": [wrapper.text], "model_type": kinds.get(wrapper.text, text.get("model_type"))}
    _drop_picture_positions(text)
    _rename_modules(text, wrapper.prefix)
    return text


def _name_as_served(text: dict[str, Any]) -> None:
    name = text["architectures"][0] if isinstance(text.get("architectures"), list) else ""
    if name in _SERVED_AS:
        served, kind = _SERVED_AS[name]
        text |= {"architectures": [served], "model_type": kind}


def _drop_picture_positions(text: dict[str, Any]) -> None:
    """Leave positions in text alone, where the decoder by itself knows no others."""
    if text["architectures"][0] in _PICTURE_POSITIONS:
        return
    for name in _ROPE_SECTIONS:
        section = text.get(name)
        if not isinstance(section, dict) or "mrope_section" not in section:
            continue
        kept = {key: value for key, value in section.items() if not key.startswith("mrope_")}
        text[name] = {key: "default" if value == "mrope" else value for key, value in kept.items()}


def nest_text(fields: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Put a decoder's fields under `text_config`, its own name above them, for an engine that reads them there."""
    outside = {name: fields[name] for name in (*_SHARED, "architectures") if name in fields}
    inside = {
        name: value for name, value in fields.items() if name not in ("quantization_config", "model_type")
    }
    return {**outside, "model_type": model_type, "text_config": inside}


def wrap_text(config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Put a decoder's config back into that of the whole; None where it was never inside another."""
    section = next((name for name in Wrapper().sections if isinstance(config.get(name), Mapping)), None)
    if section is None:
        return None
    outside = {name: value for name, value in config.items() if name != "auto_map"}
    own = {name: value for name, value in fields.items() if name != "architectures"}
    for name in ("quantization_config", "compression_config"):
        if name in config:
            own.pop(name, None)
    return {**copy.deepcopy(outside), section: own}


def _rename_modules(text: dict[str, Any], prefix: str) -> None:
    """Call the modules that a quantization leaves alone by the names they have without the rest of the model."""
    section = text.get("quantization_config") or text.get("compression_config")
    if not isinstance(section, dict):
        return
    for name in SKIPPED_MODULES:
        if isinstance(section.get(name), list):
            section[name] = [
                entry.replace(prefix, "model.", 1)
                if isinstance(entry, str) and entry.startswith(prefix)
                else entry
                for entry in section[name]
            ]


def take_layers(fields: dict[str, Any], total: int, layers: range) -> None:
    """Leave only some layers in a decoder's config, in place.

    Raises:
        UnsupportedError: A quantization names layers by their number.
    """
    for name, value in list(fields.items()):
        if name in _NUMBERS and isinstance(value, list):
            fields[name] = [number - layers.start for number in value if number in layers]
        elif isinstance(value, list) and len(value) == total:
            fields[name] = value[layers.start : layers.stop]
        elif name in spellings("first_k_dense_replace") and isinstance(value, int):
            fields[name] = min(max(0, value - layers.start), len(layers))
    for name in spellings("num_hidden_layers"):
        if name in fields:
            fields[name] = len(layers)
    for name in _SECTIONS:
        if isinstance(fields.get(name), Mapping):
            fields[name] = {
                field: _take_entries(field, value, total, layers) for field, value in fields[name].items()
            }
    section = fields.get("quantization_config")
    if layers.start and isinstance(section, Mapping):
        for name in SKIPPED_MODULES:
            entries = section.get(name)
            if isinstance(entries, list) and any(".layers." in str(e) and "*" not in str(e) for e in entries):
                raise UnsupportedError(f"quantization_config.{name} names layers by their number")


def _take_entries(name: str, value: Any, total: int, layers: range) -> Any:
    if name in _NUMBERS_FROM_ONE and isinstance(value, list):
        return [number - layers.start for number in value if number - 1 in layers]
    if isinstance(value, list) and len(value) == total:
        return value[layers.start : layers.stop]
    return value
