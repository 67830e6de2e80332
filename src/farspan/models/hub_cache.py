"""The Hugging Face cache of this machine: where it is, and which snapshots it holds.

The rules are huggingface_hub's (constants.py): HF_HUB_CACHE (or HUGGINGFACE_HUB_CACHE, its old name) is the folder of
the snapshots, else `hub` in HF_HOME, else `huggingface/hub` in XDG_CACHE_HOME, else in ~/.cache.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from farspan.errors import InputError, NotFoundError
from farspan.models.weight_index import INDEX_FILE, read_weight_index


def hub_home(environment: Mapping[str, str] = os.environ) -> Path:
    """HF_HOME, or its default."""
    given = environment.get("HF_HOME")
    if given:
        return Path(os.path.expandvars(given)).expanduser()
    cache = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".cache"
    return Path(cache).expanduser() / "huggingface"


def hub_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of the snapshots."""
    given = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    return Path(os.path.expandvars(given)).expanduser() if given else hub_home(environment) / "hub"


def find_snapshot(cache: Path, model: str, revision: str = "main") -> Path | None:
    """The snapshot of a hub model in a cache, by branch, tag or commit, complete or not; None when there is none."""
    repository = cache / f"models--{model.replace('/', '--')}"
    reference = repository / "refs" / revision
    try:
        commit = reference.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    folder = repository / "snapshots" / commit
    return folder if folder.is_dir() else None


def find_checkpoint(cache: Path, model: str, revision: str = "main") -> Path | None:
    """The complete snapshot of a hub model in a cache (see `find_snapshot`); None when there is none."""
    folder = find_snapshot(cache, model, revision)
    return folder if folder is not None and is_complete(folder) else None


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint has its config and every weight file its index names. Links that lead nowhere count as
    missing: that is what an interrupted download leaves."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / INDEX_FILE
    if index.is_file():
        try:
            named = read_weight_index(index).files
        except InputError:
            return False
        return named is not None and all(_is_file(folder / name) for name in named)
    return any(file.is_file() for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def find_misplaced(environment: Mapping[str, str], model: str, revision: str = "main") -> Path | None:
    """The snapshot of a model whose repository lies in HF_HOME itself, complete or not: HF_HOME was set to the folder
    of the snapshots, where programs look in its `hub`. None when there is none."""
    home = hub_home(environment)
    return None if home == hub_cache(environment) else find_snapshot(home, model, revision)


def resolve_folder(path: Path) -> Path:
    """The folder of a checkpoint that a path means: a repository of the cache (`models--owner--name`), or its
    `snapshots`, stands for its newest snapshot, a complete one first; any other path for itself.

    Raises:
        NotFoundError: The repository holds no snapshot with a config.json.
    """
    repository = path.parent if path.name == "snapshots" else path
    if not repository.name.startswith("models--") or not (repository / "snapshots").is_dir():
        return path
    model = repository.name.removeprefix("models--").replace("--", "/", 1)
    newest = find_snapshot(repository.parent, model)
    others = sorted((repository / "snapshots").iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
    folders = [*([newest] if newest else []), *others]
    begun = [folder for folder in folders if (folder / "config.json").is_file()]
    complete = [folder for folder in begun if is_complete(folder)]
    if not begun:
        raise NotFoundError(
            f"{repository} holds no snapshot of {model}", f"finish the download: hf download {model}"
        )
    return (complete or begun)[0]


def snapshot_model(folder: Path) -> str | None:
    """The hub id of a snapshot's folder; None for any other folder."""
    repository = folder.parent.parent
    if folder.parent.name != "snapshots" or not repository.name.startswith("models--"):
        return None
    return repository.name.removeprefix("models--").replace("--", "/", 1)
