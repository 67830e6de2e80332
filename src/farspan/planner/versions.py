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


_RELEASE = re.compile(r"v?(\d+\.\d+(?:\.\d+)?(?:\.post\d+)?)(.*)", re.DOTALL)
_EARLY = re.compile(r"[.+-]?(?:a|alpha|b|beta|rc|dev|nightly)[.-]?\d*(?:\b|[.+-].*)")


def release_of(version: str) -> tuple[str, bool]:
    """The release a version string names, and whether it precedes that release: `0.5.17rc1` and
    `v0.5.17.dev3+g1a2b` are before 0.5.17; a local part such as `+cu129` says nothing.

    Raises:
        InputError: The text is not a version.
    """
    match = _RELEASE.fullmatch(version.strip())
    if match is None:
        raise InputError(f"{version!r} is not an engine version", "write it as 0.24.0 or 0.5.6.post2")
    release, rest = match.groups()
    early = _EARLY.match(rest) is not None
    if rest and not early and not rest.startswith(("+", "-")):
        raise InputError(f"{version!r} is not an engine version", "write it as 0.24.0 or 0.5.6.post2")
    return release, early


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
