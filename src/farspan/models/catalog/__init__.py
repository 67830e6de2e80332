"""The models farspan knows by name: their published config.json, and what those leave out.

`additions.json` holds fields the stored configs lack but the published checkpoints have (a vision tower, a
weight quantization), each with where it is documented; they are merged in before reading.
"""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

_FOLDER = Path(__file__).parent
_ADDITIONS = "additions.json"
# Short names people use, where dropping the hub name's suffixes is not enough.
_ALIASES = {
    "llama-4-scout": "llama-4-scout-17b-16e-instruct",
    "llama-4-maverick": "llama-4-maverick-17b-128e-instruct",
    "llama-3.1-8b": "meta-llama-3.1-8b",
    "llama-3.1-70b": "meta-llama-3.1-70b",
    "llama-3.1-405b": "meta-llama-3.1-405b",
    "qwen3-coder-480b": "qwen3-coder-480b-a35b-instruct",
    "mixtral-8x7b": "mixtral-8x7b-v0.1",
}


class CatalogEntry(NamedTuple):
    """A stored config.

    Args:
        name: Catalog name: the hub name without its owner, in lower case.
        hub_id: `owner/name` on the Hugging Face hub.
        file: Name of the stored file.
    """

    name: str
    hub_id: str
    file: str

    def config(self) -> dict[str, Any]:
        """The published config with its documented additions merged in."""
        config: dict[str, Any] = json.loads((_FOLDER / self.file).read_bytes())
        for addition in _additions().get(self.hub_id, []):
            target = config
            for key in addition["path"]:
                target = target[key]
            for key, value in addition["fields"].items():
                target.setdefault(key, copy.deepcopy(value))
        return config

    def notes(self) -> tuple[str, ...]:
        """Where each addition comes from, for the reader of a plan."""
        return tuple(addition["source"] for addition in _additions().get(self.hub_id, []))


@lru_cache(maxsize=1)
def _additions() -> dict[str, Any]:
    additions: dict[str, Any] = json.loads((_FOLDER / _ADDITIONS).read_bytes())
    return additions


@lru_cache(maxsize=1)
def entries() -> tuple[CatalogEntry, ...]:
    """Every model of the catalog, by name."""
    found = []
    for item in _FOLDER.iterdir():
        if item.name.endswith(".json") and item.name != _ADDITIONS:
            hub_id = item.name.removesuffix(".json").replace("--", "/", 1)
            found.append(CatalogEntry(hub_id.split("/")[1].lower(), hub_id, item.name))
    return tuple(sorted(found, key=lambda entry: entry.name))


def names() -> tuple[str, ...]:
    """Every catalog name."""
    return tuple(entry.name for entry in entries())


def find(text: str) -> CatalogEntry | None:
    """The entry with this name, alias or hub id, in any case; None when there is none."""
    wanted = text.lower()
    wanted = _ALIASES.get(wanted, wanted)
    for entry in entries():
        if wanted in (entry.name, entry.hub_id.lower()):
            return entry
    return None


def aliases() -> dict[str, tuple[str, ...]]:
    """The short names of each model that has some."""
    found: dict[str, list[str]] = {}
    for short, name in _ALIASES.items():
        found.setdefault(name, []).append(short)
    return {name: tuple(short) for name, short in found.items()}


def offered_names() -> tuple[str, ...]:
    """The catalog names and short names of the models that some engine plans, sorted."""
    return tuple(sorted((*_ALIASES, *names())))


def suggestions(text: str) -> list[str]:
    """Names close to a mistyped one: those that hold it first, whatever stands between its words."""
    import difflib
    import re

    def squeeze(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower().rpartition("/")[2])

    wanted = squeeze(text)
    short = set(aliases())
    candidates = [
        *_ALIASES,
        *(name for name in offered_names() if name not in short and name not in _ALIASES),
    ]
    holding = [name for name in candidates if len(wanted) > 2 and wanted in squeeze(name)]
    return holding[:3] or difflib.get_close_matches(text.lower(), candidates, n=2)
