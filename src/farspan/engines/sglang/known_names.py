"""Names of flags and model classes in each SGLang release, from the releases' own argument parsers and model files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from farspan.planner.versions import version_key


@cache
def flags_of(version: str) -> frozenset[str]:
    """Every flag the release's parser takes, with its dashes."""
    return frozenset([f"--{name}" for name in _names("flags", version)])


@cache
def flag_names() -> frozenset[str]:
    """The flags that some release has."""
    return frozenset(f"--{name}" for names in _tables()["flags"].values() for name in names)


def spell_out(flags: Mapping[str, str | None], version: str) -> dict[str, str | None]:
    """Return flags under their whole names: `--tp` is `--tp-size`, as Python's argparse takes any beginning that only
    one flag of the release has.
    """
    known = flags_of(version)
    spelled: dict[str, str | None] = {}
    for name, value in flags.items():
        if name in known or not name.startswith("--"):
            spelled[name] = value
            continue
        whole = [flag for flag in known if flag.startswith(name)]
        spelled[whole[0] if len(whole) == 1 else name] = value
    return spelled


@cache
def architectures_of(version: str) -> frozenset[str]:
    """Every model class the release registers."""
    return frozenset(_names("architectures", version))


@cache
def _tables() -> dict[str, dict[str, list[str]]]:
    """Names by the releases that have them: `first-last`, or `first-` where the newest still does."""
    text = Path(__file__).with_name("known_names.json").read_text(encoding="utf-8")
    tables: dict[str, dict[str, list[str]]] = json.loads(text)
    return tables


def _names(kind: str, version: str) -> list[str]:
    key = version_key(version)
    found: list[str] = []
    for span, names in _tables()[kind].items():
        first, _, last = span.partition("-")
        # A post release has the names of the release it follows.
        if version_key(first)[:3] <= key[:3] and (not last or key[:3] <= version_key(last)[:3]):
            found += names
    return found
