"""From a catalog name, a config.json, its folder or a hub id to a ModelSpec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from farspan.errors import InputError
from farspan.models import catalog, hub
from farspan.models.families import family_reader
from farspan.models.families.reader import ConfigReader
from farspan.models.spec import ModelSpec


def spec_from_config(config: Mapping[str, object], name: str, source: str = "") -> ModelSpec:
    """Read a config.json's content.

    Args:
        config: The JSON object.
        name: What to call the model.
        source: What to call the config in errors; the name when empty.

    Raises:
        InputError: The architecture, or a field that may change memory, is not known; it is named.
    """
    reader = ConfigReader(config, source or name)
    architectures = reader.texts("architectures", [])
    if len(architectures) != 1:
        reader.refuse(
            "architectures", f"is {architectures}, not one architecture", "add the model's class name"
        )
    return family_reader(architectures[0])(reader, name)


def read_config_file(path: Path) -> ModelSpec:
    """Read a config.json, or the one in a folder.

    Raises:
        InputError: There is no such file, it is not JSON, or farspan does not know what it describes.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error})", "give a config.json or its folder") from None
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{file} is not JSON ({error})", "give the model's config.json") from None
    if not isinstance(config, dict):
        raise InputError(f"{file} is not a JSON object", "give the model's config.json")
    name = file.resolve().parent.name if file.name == "config.json" else file.stem
    return spec_from_config(config, name, str(file))


def load_model(model: str, *, allow_network: bool = True) -> ModelSpec:
    """Find and read a model: an existing path, a catalog name or alias, or a hub id.

    Args:
        model: What the user wrote.
        allow_network: Whether a hub id may be asked for over the network; the local Hugging Face cache is
            always looked at.

    Raises:
        InputError: Nothing of that name is found, or its config is not understood.
    """
    path = Path(model).expanduser()
    if path.exists():
        return read_config_file(path)
    entry = catalog.find(model)
    if entry is not None:
        return spec_from_config(entry.config(), entry.name)
    if hub.is_hub_id(model):
        return spec_from_config(hub.fetch_config(model, allow_network=allow_network), model)
    close = catalog.suggestions(model)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(catalog.names())}"
    raise InputError(
        f"{model!r} is neither a file, nor a folder, nor a catalog name",
        f"{hint} A hub id has an owner: owner/name",
    )
