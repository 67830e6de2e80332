"""What a reader of a built-in server's plan must know."""

from __future__ import annotations

from farspan.planner.remarks import Remarks


def find_remarks(*, raised: bool) -> Remarks:
    """Remarks about one planned server; `raised` is whether farspan raised the cap of its cache."""
    small = ("The default cap, half of free memory, is too small here: --kv-cache-gib raises it.",)
    return Remarks(
        warnings=small if raised else (),
        notes=(
            "The built-in engine is for demonstrations, tests and rehearsals: its times are not measured, and "
            "are estimated with other engines' efficiencies.",
        ),
    )
