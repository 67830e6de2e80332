"""From a catalog name, a config.json, its folder or a hub id to a ModelSpec."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from farspan.errors import InputError, NotFoundError, UnsupportedError
from farspan.models import catalog
from farspan.models.config_json import check_bounds
from farspan.models.families import family_reader
from farspan.models.families.config_fields import ConfigReader
from farspan.models.image_item import largest_image
from farspan.models.published_files import PublishedFiles, hold_to_checkpoint, read_published
from farspan.models.rope_override import overridden, parse_override, scaling_override
from farspan.models.spec import ModelSpec
from farspan.models.weight_index import MAX_TOTAL_BYTES
from farspan.models.weights import checkpoint_bytes
from farspan.sizes import format_bytes

_SAME_BYTES = 0.02
WEIGHT_FORMATS: dict[str, object] = {
    "bf16": None,
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "int4": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "mxfp4": {"quant_method": "mxfp4"},
}
# Methods and types that keep as many bits a weight.
_WEIGHT_SPELLINGS = {
    "bfloat16": "bf16",
    "fp16": "bf16",
    "float16": "bf16",
    "half": "bf16",
    "e4m3": "fp8",
    "fp8_e4m3": "fp8",
    "w8a8_fp8": "fp8",
    "awq": "int4",
    "gptq": "int4",
    "awq_marlin": "int4",
    "gptq_marlin": "int4",
    "w4a16": "int4",
    "4bit": "int4",
}


def spec_from_config(
    config: Mapping[str, object], name: str, source: str = "", *, ignore_fields: Sequence[str] = ()
) -> ModelSpec:
    """Read a config.json's content.

    Args:
        config: The JSON object.
        name: What to call the model.
        source: What to call the config in errors; the name when empty.
        ignore_fields: Unknown fields that the user says cannot change memory.

    Raises:
        InputError: The architecture, or a field that may change memory, is not known; it is named.
    """
    check_bounds(config, source or name)
    reader = ConfigReader(config, source or name, allowed=frozenset(ignore_fields))
    architectures = reader.texts("architectures", [])
    if not architectures:
        reader.refuse("architectures", "is [] and names no class", "add the model's class name")
    try:
        spec = family_reader(architectures[0])(reader, name)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Fields that are each possible and not together: a size that is no multiple of another, lists too short.
        raise InputError(
            f"{source or name} contradicts itself ({type(error).__name__}: {error})",
            "compare it with the config.json on the hub",
        ) from error
    attending = [layer for layer in spec.layers if not layer.attention.keeps_no_tokens]
    if not spec.layers or any(min(layer.num_kv_heads, layer.head_dim) < 1 for layer in attending):
        raise InputError(
            f"{source or name} describes layers without heads, or heads of size 0",
            "compare it with the config.json on the hub",
        )
    if checkpoint_bytes(spec) > MAX_TOTAL_BYTES:
        raise InputError(
            f"{source or name} describes {format_bytes(checkpoint_bytes(spec))} of weights, beyond any model's",
            "compare it with the config.json on the hub",
        )
    return _only(replace(spec, image=largest_image(config), other_architectures=tuple(architectures[1:])))


def parse_weight_format(text: str) -> str:
    """Read a weight format as people write it: `FP8`, `bfloat16`, `awq`, in any case.

    Raises:
        InputError: It is none of `WEIGHT_FORMATS`.
    """
    wanted = text.strip().lower().replace("-", "_")
    found = _WEIGHT_SPELLINGS.get(wanted, wanted)
    if found not in WEIGHT_FORMATS:
        raise InputError(f"{text!r} is not a weight format", f"choose one of {', '.join(WEIGHT_FORMATS)}")
    return found


def override_weights(config: Mapping[str, object], weights: str) -> dict[str, object]:
    """Return the config as if its checkpoint kept its weights in another format.

    `bf16` drops any quantization; `fp8` keeps every projection in FP8 with 128 x 128 blocks, as
    `--quantization fp8` and most FP8 checkpoints do; `int4` in 4 bits with groups of 128; `mxfp4` the routed
    experts only.

    Raises:
        InputError: The format is none of these.
    """
    changed = dict(config)
    text = changed.get("text_config")
    if isinstance(text, Mapping):
        changed["text_config"] = {key: text[key] for key in text if key != "quantization_config"}
    changed["quantization_config"] = WEIGHT_FORMATS[parse_weight_format(weights)]
    changed.pop("expert_dtype", None)
    return changed


def load_model(
    model: str,
    *,
    weights: str = "",
    allow_network: bool = True,
    ignore_fields: Sequence[str] = (),
    rope_scaling: str = "",
    override: str = "",
) -> ModelSpec:
    """Find and read a model: an existing path, a catalog name or alias, or a hub id.

    Args:
        model: What the user wrote.
        weights: Plan as if the weights were kept in this format (see `override_weights`); empty for the
            checkpoint's own.
        allow_network: Whether a hub id may be asked for over the network; the local Hugging Face cache is
            always looked at.
        ignore_fields: Unknown fields of the config that the user says cannot change memory.
        rope_scaling: RoPE scaling to plan with, such as `yarn:4`.
        override: A JSON object of config fields, as an engine's override flag takes it.

    Raises:
        NotFoundError: Nothing of that name is found.
        UnsupportedError: Its config is not understood.
        InputError: Something given cannot be used.
    """
    found = _find(model, allow_network=allow_network)
    config, notes = dict(found.files.config), found.notes
    changed = ""
    if override:
        config = overridden(config, parse_override(override))
    if rope_scaling:
        fields = scaling_override(config, rope_scaling)
        config, changed = overridden(config, fields), json.dumps(fields, separators=(",", ":"))
        notes += (
            f"planned with {rope_scaling} RoPE scaling: a model reaches further than it was made for, less surely",
        )
    if weights:
        config = override_weights(config, weights)
        notes = (f"planned with {weights} weights: give the engine a checkpoint kept so",)
    elif not _says_quantization(config):
        claimed = re.search(r"(?i)\b(nvfp4|mxfp4|fp8|awq|gptq|w4a16|w8a8|int4|int8)\b", found.name)
        if claimed is not None:
            notes += (
                f"the name says {claimed[1]}, the config no quantization: its weights are counted unquantized; with "
                "hf_quant_config.json beside it, or --weights, they are not",
            )
    spec = spec_from_config(config, found.name, found.files.source, ignore_fields=ignore_fields)
    if found.files.weights_bytes and not weights:
        spec = hold_to_checkpoint(spec, found.files.weights_bytes)
    return _only(replace(spec, notes=spec.notes + notes, config_overrides=changed))


def _says_quantization(config: Mapping[str, object]) -> bool:
    text = config.get("text_config")
    sections = [config, text if isinstance(text, Mapping) else {}]
    names = ("quantization_config", "compression_config", "expert_dtype")
    return any(section.get(name) is not None for section in sections for name in names)


def read_model_config(
    model: str, *, weights: str = "", allow_network: bool = True, override: str = ""
) -> tuple[dict[str, object], str]:
    """Find a model and return its config.json as it is read, what is documented of it added, and what it is called.

    Args:
        model: What the user wrote.
        weights: As if the weights were kept in this format; empty for the checkpoint's own.
        allow_network: Whether a hub id may be asked for over the network.
        override: A JSON object of config fields, as an engine's override flag takes it.

    Raises:
        InputError: As `load_model`.
    """
    found = _find(model, allow_network=allow_network)
    config = dict(found.files.config)
    if override:
        config = overridden(config, parse_override(override))
    return (override_weights(config, weights) if weights else config), found.name


class _Found(NamedTuple):
    """A model's files, what to call it, and what a reader must know of the files."""

    files: PublishedFiles
    name: str
    notes: tuple[str, ...] = ()


def _find(model: str, *, allow_network: bool) -> _Found:
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        raise UnsupportedError(
            f"{model} is a GGUF file, whose sizes farspan does not read",
            "give the config.json of the model it was made from, with --weights int4",
        )
    if path.exists() or path.suffix == ".json":
        from farspan.models.hub_cache import resolve_folder, snapshot_model

        path = resolve_folder(path)
        file = path / "config.json" if path.is_dir() else path
        # A snapshot's files are links into a folder of blobs: its name is the repository's.
        snapshot_of = snapshot_model(file.absolute().parent)
        if snapshot_of is not None:
            name = snapshot_of.rpartition("/")[2].lower()
        else:
            name = file.resolve().parent.name if file.name == "config.json" else file.stem
        return _Found(read_published(file), name)
    entry = catalog.find(model)
    if entry is not None:
        return _Found(PublishedFiles(entry.config(), entry.name), entry.name, entry.notes())
    from farspan.models import hub

    if hub.is_hub_id(model):
        return _Found(hub.fetch_published(model, allow_network=allow_network), model)
    if (address := re.match(r"(?:https?://)?(?:www\.)?huggingface\.co/([\w.-]+/[\w.-]+)", model)) is not None:
        raise NotFoundError(f"{model!r} is the address of a model", f"write its hub id: {address[1]}")
    close = catalog.suggestions(model)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise NotFoundError(
        f"{model!r} is neither a file, nor a folder, nor a catalog name",
        f"{hint}farspan models lists those it knows; a hub id has an owner: owner/name",
    )


@lru_cache(maxsize=64)
def _only(spec: ModelSpec) -> ModelSpec:
    """The first of the equal specs read in this process: caches then find a model read again by identity, where
    comparing two by value walks through both."""
    return spec


def engine_model_name(model: str) -> str:
    """What to call the model on an engine's command line: a folder, or a hub id for a catalog name."""
    path = Path(model).expanduser()
    if path.exists():
        from farspan.models.hub_cache import resolve_folder

        return str(path.parent if path.is_file() else resolve_folder(path))
    entry = catalog.find(model)
    return entry.hub_id if entry is not None else model


def keeps_weights_so(model: str, weights: str, *, allow_network: bool = True) -> bool:
    """Whether a model's own checkpoint keeps its weights in a format, so that `weights` changes nothing.

    Raises:
        InputError: As `load_model`.
    """
    from farspan.models.weights import rank_weight_bytes

    own, asked = (load_model(model, weights=each, allow_network=allow_network) for each in ("", weights))
    # A checkpoint's own bytes are held to its index, which counts padding too.
    return abs(rank_weight_bytes(own).total / rank_weight_bytes(asked).total - 1) < _SAME_BYTES
