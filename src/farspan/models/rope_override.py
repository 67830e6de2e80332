"""Longer contexts than a model was made for: RoPE scaling given by hand, or in an engine's own override of the config.

vLLM takes a config's overrides with --hf-overrides, SGLang with --json-model-override-args; both update the fields of
config.json with a JSON object, nested objects field by field (vllm 0.33.0 transformers_utils/config.py: get_config;
sglang 0.5.23 srt/utils/hf_transformers/config.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from farspan.errors import InputError

# The engines' flags that override fields of config.json.
OVERRIDE_FLAGS = ("--hf-overrides", "--hf_overrides", "--json-model-override-args")
_KINDS = ("yarn", "linear", "dynamic")
_TEXT_SECTIONS = ("text_config", "llm_config", "language_config")


def scaling_override(config: Mapping[str, object], scaling: str) -> dict[str, object]:
    """The fields that make a model's RoPE reach further.

    Args:
        config: The content of config.json.
        scaling: Such as `yarn:4`: the kind and the factor.

    Raises:
        InputError: The text is not a kind and a factor, or the config gives no length to multiply.
    """
    match = re.fullmatch(r"\s*([a-z]+)\s*[:=x]\s*([0-9.]+)\s*", scaling.lower())
    if match is None or match[1] not in _KINDS or match[2].count(".") > 1:
        raise InputError(
            f"--rope-scaling {scaling!r} is not a kind and a factor",
            f"write {' or '.join(_KINDS)}, as in yarn:4",
        )
    kind, factor = match[1], float(match[2])
    if factor <= 1:
        raise InputError(f"--rope-scaling {scaling!r} makes nothing longer", "give a factor above 1")
    section = next((name for name in _TEXT_SECTIONS if isinstance(config.get(name), Mapping)), "")
    text = config[section] if section else config
    assert isinstance(text, Mapping)
    field = "rope_parameters" if isinstance(text.get("rope_parameters"), Mapping) else "rope_scaling"
    rope = text.get(field)
    own: Mapping[str, object] = rope if isinstance(rope, Mapping) else {}
    nested = [name for name in own if isinstance(own[name], Mapping)]
    if nested:
        raise InputError(
            f"--rope-scaling: this model has RoPE of its own for {' and '.join(nested)}",
            "give the engine's own override behind --, such as --hf-overrides",
        )
    made_for = text.get("max_position_embeddings")
    # The factor of a scaling of the same kind is of what that one began from; any other is part of the model.
    same = own.get("rope_type", own.get("type")) in (kind, None, "default")
    began = own.get("original_max_position_embeddings")
    original = (began or made_for) if same else (made_for or began)
    if not isinstance(original, int):
        raise InputError(
            "--rope-scaling: the config gives no max_position_embeddings", "use its complete config.json"
        )
    if isinstance(made_for, int) and original * factor <= made_for:
        raise InputError(
            f"--rope-scaling {scaling!r} makes {int(original * factor):,} tokens of {original:,},"
            f" and the model was made for {made_for:,}",
            f"give a factor above {made_for / original:g}",
        )
    base = own.get("rope_theta", text.get("rope_theta"))
    changed: dict[str, object] = {
        field: {
            "rope_type": kind,
            **({"rope_theta": base} if base is not None else {}),
            "factor": factor,
            "original_max_position_embeddings": original,
        },
        "max_position_embeddings": int(original * factor),
    }
    return {section: changed} if section else changed


def parse_override(text: str) -> dict[str, object]:
    """Read the JSON object of an engine's override flag.

    Raises:
        InputError: It is not a JSON object.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(
            f"the config override {text!r} is not JSON ({error})", "quote it for the shell"
        ) from None
    if not isinstance(value, dict):
        raise InputError(
            f"the config override {text!r} is not a JSON object", "write it as '{\"field\": value}'"
        )
    return value


def overridden(config: Mapping[str, object], override: Mapping[str, object]) -> dict[str, object]:
    """The config with an override's fields in it; a YaRN whose length the config does not say sets it."""
    changed = dict(config)
    for name, value in override.items():
        old = changed.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and name in _TEXT_SECTIONS:
            changed[name] = overridden(old, value)
        else:
            changed[name] = value
    for name in ("rope_scaling", "rope_parameters"):
        rope = override.get(name)
        if not isinstance(rope, Mapping):
            continue
        if name == "rope_scaling":
            changed.pop("rope_parameters", None)
        else:
            changed.pop("rope_scaling", None)
        factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
        if (
            isinstance(factor, int | float)
            and isinstance(original, int)
            and "max_position_embeddings" not in override
        ):
            changed["max_position_embeddings"] = int(original * factor)
    return changed
