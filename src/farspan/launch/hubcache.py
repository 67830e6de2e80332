"""Where a model's files are: a folder, a snapshot in the Hugging Face cache, or nowhere yet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from farspan.errors import InputError, NotFoundError
from farspan.models.hub import is_hub_id
from farspan.models.hub_cache import (
    find_checkpoint,
    find_misplaced,
    hub_cache,
    hub_home,
    is_complete,
    resolve_folder,
    snapshot_model,
)

_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
CONTAINER_HOME = "/root/.cache/huggingface"


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of this machine inside a container."""

    host: Path
    inside: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What the engine is given as its model, and what it needs to find it there.

    Args:
        name: What the API calls it: the hub id, or the folder's name.
        outside: The model for an engine on this machine.
        inside: The model for an engine in a container with `mounts`.
        mounts: Folders the container needs.
        env: Environment variables inside the container.
        secrets: Environment variables passed on by name, their values never looked at.
        downloads: Whether the engine will download the model.
        cache: Where it will be downloaded to; None where that is not this machine, or nothing is.
        notes: What to know about where it was found, one sentence each.
    """

    name: str
    outside: str
    inside: str
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    downloads: bool = False
    cache: Path | None = None
    notes: tuple[str, ...] = ()


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def find_model_files(
    model: str, environment: Mapping[str, str], *, revision: str = "main", container: bool = False
) -> ModelFiles:
    """Resolve a model to what an engine is given.

    A complete snapshot is given by its path, mounted read-only and with the hub switched off: an engine given a
    hub id writes into the cache even when everything is there, and dies on a read-only one.

    Args:
        model: A folder, or a hub id.
        environment: For HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and the names of tokens.
        revision: Branch, tag or commit of a hub id.
        container: Whether the engine runs in a container, for which a missing model needs a writable cache.

    Raises:
        InputError: It is neither; files of it are missing; or it must be downloaded and cannot be.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        folder = resolve_folder(path)
        _check_shards(folder)
        return _folder_files(folder)
    if not is_hub_id(model):
        raise NotFoundError(
            f"{model!r} is neither a folder nor a hub id", "give the checkpoint's folder or owner/name"
        )
    cache = hub_cache(environment)
    misplaced = find_misplaced(environment, model, revision)
    snapshot = find_checkpoint(cache, model, revision)
    notes: tuple[str, ...] = ()
    if misplaced is not None and snapshot is None:
        home = hub_home(environment)
        if not is_complete(misplaced):
            raise NotFoundError(
                f"{misplaced} is not complete, and lies in HF_HOME itself, where no engine looks",
                f"set HF_HUB_CACHE={home} and finish the download: hf download {model}",
            )
        snapshot = misplaced
        notes = (
            f"HF_HOME is {home}, and the model lies in it instead of in its hub folder: it is given by its path. Set "
            f"HF_HUB_CACHE={home} for other programs to find it.",
        )
    if snapshot is not None:
        found = _folder_files(snapshot)
        return replace(found, name=model, notes=notes)
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise NotFoundError(
            f"{model} is not complete in {cache} and HF_HUB_OFFLINE is set",
            f"run: HF_HUB_OFFLINE=0 hf download {model}",
        )
    if container and not is_writable(cache):
        raise InputError(
            f"{model} is not complete in {cache}, and that cache is read-only, where the engine would write to it",
            f"download it first (hf download {model}) or set HF_HOME to a folder you can write to",
        )
    mounts = [Mount(hub_home(environment), CONTAINER_HOME, read_only=False)]
    if cache != hub_home(environment) / "hub":
        mounts.append(Mount(cache, f"{CONTAINER_HOME}/hub", read_only=False))
    tokens = tuple(name for name in _TOKENS if environment.get(name))
    return ModelFiles(
        model, model, model, tuple(mounts), {"HF_HOME": CONTAINER_HOME}, tokens, downloads=True, cache=cache
    )


def has_token(environment: Mapping[str, str]) -> bool:
    """Whether a download could prove who asks: by a variable, or the file that `hf auth login` leaves."""
    given = environment.get("HF_TOKEN_PATH")
    file = Path(given).expanduser() if given else hub_home(environment) / "token"
    return any(environment.get(name) for name in _TOKENS) or file.is_file()


def _check_shards(folder: Path) -> None:
    """Refuse a checkpoint whose index names files that are not there.

    Raises:
        NotFoundError: Some are missing.
    """
    if (folder / "model.safetensors.index.json").is_file() and not is_complete(folder):
        model = snapshot_model(folder) or "owner/name"
        raise NotFoundError(
            f"{folder} lacks files that its model.safetensors.index.json names",
            f"finish the download: hf download {model}",
        )


def _folder_files(folder: Path) -> ModelFiles:
    """A folder; when it is a snapshot, its files are links into the repository's blobs, which come along."""
    folder = folder.absolute()
    name = snapshot_model(folder)
    if name is not None:
        repository = folder.parent.parent
        root = f"{CONTAINER_HOME}/hub/{repository.name}"
        inside = f"{root}/snapshots/{folder.name}"
        env = {"HF_HOME": CONTAINER_HOME, "HF_HUB_OFFLINE": "1"}
        return ModelFiles(name, str(folder), inside, (Mount(repository, root, read_only=True),), env)
    inside = f"/models/{folder.name}"
    env = {"HF_HUB_OFFLINE": "1"}
    return ModelFiles(folder.name, str(folder), inside, (Mount(folder, inside, read_only=True),), env)
