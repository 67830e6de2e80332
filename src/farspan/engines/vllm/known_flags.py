"""Which flags a vLLM release has: names read in its argument parsers, from 0.9.0 to 0.33.0."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from farspan.errors import InputError
from farspan.planner.versions import version_key

# Written beside the parsers that were read: of `vllm serve` itself, and short spellings.
_OTHERS = frozenset(
    {
        "--asc",
        "--dpa",
        "--dpb",
        "--dpbi",
        "--dpe",
        "--dph",
        "--dpl",
        "--dpn",
        "--dpp",
        "--dpr",
        "--help",
        "--model",
    }
)
_OPTIMIZATION = re.compile(r"--O[0-3]?")


@lru_cache(maxsize=1)
def _releases() -> Mapping[str, tuple[str, str]]:
    """The first release that has a flag and the first that has it no longer; empty where none is known."""
    text = Path(__file__).with_name("known_flags.json").read_text(encoding="utf-8")
    return {name: (first, gone) for name, (first, gone) in json.loads(text).items()}


def flag_names() -> frozenset[str]:
    """The flags that some release has."""
    return frozenset(_releases())


def check_flag_names(names: Iterable[str], version: str) -> None:
    """Refuse a flag that this release does not have.

    Raises:
        InputError: It has none of that name; the nearest is named, or the release that has it.
    """
    known = _releases()
    for written in names:
        name = written.partition(".")[0]
        if not name.startswith("--") or name in _OTHERS or _OPTIMIZATION.fullmatch(name):
            continue
        plain = name if name in known else name.replace("--no-", "--", 1)
        if plain not in known:
            raise InputError(f"vllm {version} has no {name}", _nearest(name, known))
        first, gone = known[plain]
        key = version_key(version)
        if first and key < version_key(first):
            raise InputError(f"vllm {version} has no {name}", f"drop it: it came with {first}")
        if gone and key >= version_key(gone):
            raise InputError(f"vllm {version} has no {name}", f"drop it: it went in {gone}")


def spell_out(flags: Mapping[str, str | None], version: str) -> dict[str, str | None]:
    """Return flags under their whole names: `--tensor_parallel` is `--tensor-parallel-size`.

    vLLM's FlexibleArgumentParser takes dashes for underscores, and Python's argparse below it any beginning that only
    one flag of the release has (utils/argparse_utils.py; it leaves allow_abbrev as it is).
    """
    known = _releases()
    spelled: dict[str, str | None] = {}
    for written, value in flags.items():
        name = written.replace("_", "-") if written.startswith("--") else written
        if name.startswith("--") and "." not in name and name not in known and name not in _OTHERS:
            whole = [flag for flag in (*known, *_OTHERS) if flag.startswith(name) and _has(flag, version)]
            name = whole[0] if len(whole) == 1 else name
        spelled[name] = value
    return spelled


def _has(flag: str, version: str) -> bool:
    first, gone = _releases().get(flag, ("", ""))
    key = version_key(version)
    return not (first and key < version_key(first)) and not (gone and key >= version_key(gone))


def _nearest(name: str, known: Mapping[str, tuple[str, str]]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return (
        f"did you mean {close[0]}?"
        if close
        else "farspan knows the flags of 0.9.0 to 0.33.0: check its spelling"
    )
