"""The ways to run a server, by name."""

from __future__ import annotations

from farspan.errors import NotFoundError

RUNTIMES = ("docker", "kubernetes", "local")
_ALIASES = {"k8s": "kubernetes", "kube": "kubernetes", "process": "local", "none": "local"}


def parse_runtime(text: str) -> str:
    """A runtime's one name, from any case; k8s and kube mean kubernetes.

    Raises:
        NotFoundError: There is none of that name.
    """
    lower = text.strip().lower()
    name = _ALIASES.get(lower, lower)
    if name not in RUNTIMES:
        import difflib

        close = difflib.get_close_matches(lower, RUNTIMES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise NotFoundError(f"{text!r} is not a runtime", f"{hint}choose one of {', '.join(RUNTIMES)}")
    return name
