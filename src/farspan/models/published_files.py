"""The files of a published checkpoint that say what it is: config.json, and what may stand beside it.

ModelOpt writes the quantization of a checkpoint into hf_quant_config.json, not always into config.json too; and the
index of the weight files says how many bytes they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from farspan.errors import InputError
from farspan.models.config_json import MAX_FILE_BYTES, parse_config_json, read_config_json
from farspan.models.spec import ModelSpec
from farspan.models.tensors import Shard, WeightPart, WeightTensor
from farspan.models.weight_index import INDEX_FILE, read_weight_index
from farspan.models.weights import checkpoint_bytes
from farspan.sizes import format_bytes

_QUANTIZATION_FILE = "hf_quant_config.json"
# How far the layers a config describes may be from the files' size without a word.
_TOLERANCE = 0.01


class PublishedFiles(NamedTuple):
    """What was found.

    Args:
        config: The content of config.json, with the quantization that stands beside it.
        source: What to call it in errors.
        weights_bytes: Bytes of all weights as their index says; 0 without one.
    """

    config: Mapping[str, object]
    source: str
    weights_bytes: int = 0


def read_published(file: Path) -> PublishedFiles:
    """Read a config.json and what stands beside it.

    Raises:
        NotFoundError: There is no such file.
        InputError: A file cannot be read, is not JSON, or says more bytes than any checkpoint has.
    """
    config = read_config_json(file)
    if file.name != "config.json":
        return PublishedFiles(config, str(file))

    def beside(name: str) -> bytes | None:
        other = file.parent / name
        if not other.is_file():
            return None
        try:
            with other.open("rb") as stream:
                return stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise InputError(f"{other} cannot be read ({error.strerror})", "check its rights") from None

    files = complete(config, str(file), beside)
    index = file.parent / INDEX_FILE
    return files._replace(weights_bytes=read_weight_index(index).total_size) if index.is_file() else files


def complete(
    config: Mapping[str, object], source: str, beside: Callable[[str], bytes | None]
) -> PublishedFiles:
    """Add the quantization that stands beside a config; `beside` returns a file's content, or None without it."""
    if not _quantization(config):
        content = beside(_QUANTIZATION_FILE)
        if content is not None:
            section = {
                "quant_method": "modelopt",
                **parse_config_json(content, f"{source}: {_QUANTIZATION_FILE}"),
            }
            config = {**config, "quantization_config": section}
    return PublishedFiles(config, source)


def _quantization(config: Mapping[str, object]) -> bool:
    text = config.get("text_config")
    sections = [config, text if isinstance(text, Mapping) else {}]
    return any(section.get("quantization_config") is not None for section in sections)


def hold_to_checkpoint(spec: ModelSpec, total: int) -> ModelSpec:
    """Hold the weights read from a config against the bytes the checkpoint has.

    Where the layers are only assumed, the files are right: everything but the embedding and the head becomes one
    tensor of what is left. Where they are known, a difference is said: layers for speculative decoding that engines
    load only on demand, or tensors kept in another type.
    """
    own = checkpoint_bytes(spec)
    if abs(own - total) <= total * _TOLERANCE:
        return spec
    if not any(note.startswith("assumed") for note in spec.notes):
        note = (
            f"the checkpoint's index says {format_bytes(total)}, the layers that are loaded come to "
            f"{format_bytes(own)}"
        )
        return replace(spec, notes=(*spec.notes, note))
    outer = tuple(
        tensor for tensor in spec.weights if tensor.part in (WeightPart.EMBEDDING, WeightPart.LM_HEAD)
    )
    kept = sum(tensor.count for tensor in outer) * spec.dtype_bytes
    if kept >= total:
        return spec
    rest = WeightTensor(
        "layers",
        WeightPart.DENSE_MLP,
        ((total - kept) // spec.dtype_bytes,),
        Shard.SPLIT,
        dtype_bytes=spec.dtype_bytes,
    )
    note = f"the weights are the {format_bytes(total)} that the checkpoint's index says"
    return replace(spec, weights=(*outer, rest), quantization=None, notes=(*spec.notes, note))
