"""The Hugging Face cache of this machine: where it is, and which snapshots it holds.

The rules are huggingface_hub's (constants.py): HF_HUB_CACHE (or HUGGINGFACE_HUB_CACHE, its old name) is the folder of
the snapshots, else `hub` in HF_HOME, else `huggingface/hub` in XDG_CACHE_HOME, else in ~/.cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


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
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, OSError):
            return False
        return all((folder / name).is_file() for name in named)
    return any(file.is_file() for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
