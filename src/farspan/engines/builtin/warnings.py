"""What a reader of a built-in server's plan must know."""

from __future__ import annotations


def warnings(*, raised: bool) -> tuple[str, ...]:
    """Warnings about one planned server; `raised` is whether farspan raised the cap of its cache."""
    found = [
        "The built-in engine is for demonstrations, tests and rehearsals: its times are not measured, and "
        "are estimated with other engines' efficiencies.",
    ]
    if raised:
        found.insert(0, "The default cap, half of free memory, is too small here: --kv-cache-gib raises it.")
    return tuple(found)
