"""A checkpoint's tensors: from its safetensors files, or dummies of the same shapes made on the device."""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from enum import StrEnum
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from farspan.builtin.model_config import read_json
from farspan.errors import CheckpointError


class LoadFormat(StrEnum):
    """Where weights come from; vLLM's words."""

    AUTO = "auto"
    DUMMY = "dummy"


class Tensors(ABC):
    """A model's tensors by name, each taken once, of one dtype and on one device.

    Attributes:
        taken_bytes: Bytes of those taken so far, on the device.
    """

    taken_bytes: int = 0

    @abstractmethod
    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Return one tensor, of the shape that the config implies.

        Raises:
            CheckpointError: It is missing or has another shape.
        """


class DummyTensors(Tensors):
    """Random weights made on the device: a model's arithmetic and memory without its files.

    Norms are ones; the others are uniform with the variance of one over their inputs, so that activations keep their
    size from layer to layer and no token's logits are all alike. A tensor depends on its name alone.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """See `Tensors.take`; every name is there."""
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        self.taken_bytes += tensor.numel() * tensor.itemsize
        if len(shape) == 1 and name.endswith("norm.weight"):
            return tensor.fill_(1.0)
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(name.encode()))
        # Experts are kept [experts, inputs, outputs], all else [outputs, inputs].
        inputs = shape[-2] if len(shape) == 3 else shape[-1]
        bound = math.sqrt(3.0 / inputs)
        return tensor.uniform_(-bound, bound, generator=generator)


class CheckpointTensors(Tensors):
    """The tensors of a folder's safetensors files, cast to one dtype and moved to one device.

    Raises:
        CheckpointError: The folder holds no safetensors, or one cannot be read.
    """

    def __init__(self, folder: Path, prefix: str, dtype: torch.dtype, device: torch.device) -> None:
        self._folder = folder
        self._prefix = prefix
        self._dtype = dtype
        self._device = device
        self._file_of = _index(folder)
        self._open: dict[Path, safe_open] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """See `Tensors.take`."""
        full = self._prefix + name
        if full not in self._file_of:
            raise CheckpointError(f"{self._folder} has no tensor {full}", "check that every shard is there")
        path = self._file_of[full]
        try:
            if path not in self._open:
                self._open[path] = safe_open(path, framework="pt")
            tensor: torch.Tensor = self._open[path].get_tensor(full)  # type: ignore[no-untyped-call]
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} cannot be read: {error}", "download the checkpoint again"
            ) from error
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{full} has shape {tuple(tensor.shape)} where config.json implies {shape}",
                "check that config.json belongs to these weights",
            )
        tensor = tensor.to(device=self._device, dtype=self._dtype)
        self.taken_bytes += tensor.numel() * tensor.itemsize
        return tensor


def _index(folder: Path) -> dict[str, Path]:
    """Return the file each tensor lies in, from the shard index or from the files themselves."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _read_index(index)
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path} cannot be read: {error}", "download the checkpoint again"
            ) from error
    if not found:
        raise CheckpointError(f"{folder} has no .safetensors file", "give a Hugging Face checkpoint folder")
    return found


def _read_index(index: Path) -> dict[str, Path]:
    """Return the file each tensor lies in, as a shard index says; all of them in its own folder."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict):
        raise CheckpointError(f"{index} has no weight_map", "download the checkpoint again")
    for file in files.values():
        # An index comes with the checkpoint and may be anybody's: it names no file elsewhere.
        if not isinstance(file, str) or file != Path(file).name or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names {str(file)[:100]!r}, which is no safetensors file beside it",
                "download the checkpoint again",
            )
    return {name: index.parent / file for name, file in files.items()}
