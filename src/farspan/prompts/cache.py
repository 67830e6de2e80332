"""Files that are complete or absent, and the cache folder, whose keys hold all that an entry was computed from."""

from __future__ import annotations

import os
import secrets
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


def replace_file(target: Path, write: Callable[[Path], None]) -> None:
    """Write a file that takes its place only once it is complete; until then, and after a failure, the old one stays.

    Args:
        target: The file; a link is followed, missing folders are made.
        write: Writes the file it is given, which has the target's suffix.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.stem}-{secrets.token_hex(4)}{target.suffix}")
    try:
        write(draft)
        if target.exists():
            draft.chmod(target.stat().st_mode)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
