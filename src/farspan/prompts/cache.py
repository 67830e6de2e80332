"""The cache folder: things that took time to compute, each under a key that holds all it was computed from."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of farspan's caches: $XDG_CACHE_HOME/farspan, or ~/.cache/farspan."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "farspan"


def publish_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Make a folder that is either complete or absent, whoever else is making it at the same time.

    Args:
        target: The folder; when it exists once `write` is done, the one that exists is kept.
        write: Fills the folder it is given.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write(draft)
        draft.chmod(0o755)
        draft.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
