"""Which engine version's arithmetic to use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from farspan.errors import InputError


class ResolvedVersion(NamedTuple):
    """The version to plan with, and a warning when it is not the one asked for."""

    version: str
    warning: str


def version_key(version: str) -> tuple[int, ...]:
    """Numbers to compare versions by: `0.5.6.post2` is (0, 5, 6, 2), above `0.5.6` and below `0.5.7`.

    Raises:
        InputError: The text is not a version.
    """
    match = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:\.post(\d+))?", version.strip())
    if match is None:
        raise InputError(f"{version!r} is not an engine version", "write it as 0.24.0 or 0.5.6.post2")
    return tuple(int(part or 0) for part in match.groups())


def resolve_version(
    engine: str, wanted: str, known: Sequence[str], *, accept_nearest: bool
) -> ResolvedVersion:
    """Choose among `known` (oldest first) the version to plan `wanted` with; empty means the newest.

    Raises:
        InputError: `wanted` is not known and `accept_nearest` is False.
    """
    if not wanted:
        return ResolvedVersion(known[-1], "")
    key = version_key(wanted)
    for version in known:
        if version_key(version) == key:
            return ResolvedVersion(version, "")
    older = [version for version in known if version_key(version) < key]
    nearest = older[-1] if older else known[0]
    if not accept_nearest:
        raise InputError(
            f"{engine} {wanted} is not a version farspan knows (it knows {', '.join(known)})",
            f"add --accept-nearest-version to plan with {nearest}",
        )
    return ResolvedVersion(nearest, f"{engine} {wanted} is not known: planned as {nearest}")


_PRE_RELEASE = re.compile(
    r"(v?\d+\.\d+(?:\.\d+)?(?:\.post\d+)?)(?:[.-]?(?:rc|a|b|dev|nightly)\d*.*|\+.*)", re.IGNORECASE
)
_UNRELEASED = ("nightly", "latest", "main")


def released_version(wanted: str) -> tuple[str, str]:
    """The release that a version stands for, and how it was read.

    `0.24.0rc2`, `0.24.0.dev12+gabc` and `0.24.0+cu128` are read as 0.24.0: a pre-release as the release it precedes.
    `nightly`, `latest` and `main` are read as empty, the newest.

    Returns:
        The release, and a sentence when it is not what was written; empty for none.
    """
    text = wanted.strip()
    if text.lower().split("-")[0] in _UNRELEASED:
        return "", f"{wanted} is planned by the newest rules"
    match = _PRE_RELEASE.fullmatch(text)
    if match is None:
        return text, ""
    release = match.group(1)
    return (
        release,
        "" if "+" in text and "dev" not in text else f"{wanted} is planned as {release.lstrip('v')}",
    )


def resolve_release(engine: str, wanted: str, oldest: str, newest: str) -> ResolvedVersion:
    """The release to plan `wanted` as, when every release from `oldest` to `newest` has rules; empty: the newest.

    One outside is planned by the nearest rules, with a warning.

    Raises:
        InputError: `wanted` is not a version.
    """
    if not wanted:
        return ResolvedVersion(newest, "")
    release, note = released_version(wanted)
    warning = f"{engine} {note}" if note else ""
    if not release:
        return ResolvedVersion(newest, warning)
    key = version_key(release)
    if key > version_key(newest):
        return ResolvedVersion(newest, f"{engine} {wanted} is not known: planned as {newest}")
    if key < version_key(oldest):
        return ResolvedVersion(
            oldest, f"{engine} {wanted} is older than farspan's rules: planned as {oldest}"
        )
    return ResolvedVersion(canonical_version(release), warning)


def canonical_version(text: str) -> str:
    """A version as its engine writes it: three numbers, and `.postN` where there is one."""
    major, minor, patch, post = version_key(text)
    return f"{major}.{minor}.{patch}" + (f".post{post}" if post else "")
