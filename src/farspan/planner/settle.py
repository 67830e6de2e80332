"""The one settle loop: the flags as given, then the first cure that serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Attempt = TypeVar("Attempt")


def settle(
    given: Attempt,
    cures: Iterable[Attempt],
    *,
    serves: Callable[[Attempt], bool],
    improves: Callable[[Attempt], bool] = lambda _: False,
) -> Attempt:
    """Choose what is planned: `given` if it serves, else the first of the `cures` that does.

    Args:
        given: The server as the user wrote it.
        cures: Servers with something added, the mildest first; made only when those before do not serve.
        serves: Whether an attempt does what was asked.
        improves: Whether the last cure is worth showing in place of `given` though none serves.

    Returns:
        `given`, unless a cure serves or the last one improves on it.
    """
    if serves(given):
        return given
    last = None
    for cure in cures:
        if serves(cure):
            return cure
        last = cure
    return last if last is not None and improves(last) else given
