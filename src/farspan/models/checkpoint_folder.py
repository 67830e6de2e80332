"""A checkpoint's folder, written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farspan.errors import InputError


@contextmanager
def written_whole(target: Path, mark: str, foreign: str) -> Iterator[Path]:
    """A folder to write the files into, which is moved to its place when the block ends without an error.

    Args:
        target: Its place. One of the same kind that is there is replaced.
        mark: The file by which one of the kind is known.
        foreign: What to say of a folder that holds something else: "holds no shard".

    Raises:
        InputError: `target` holds something else, or cannot be written.
    """
    if target.exists() and not (target / mark).is_file() and (target.is_file() or any(target.iterdir())):
        raise InputError(f"{target} exists and {foreign}", "choose another folder, or empty it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as parts:
            made = Path(parts) / "checkpoint"
            made.mkdir()
            yield made
            if target.exists():
                shutil.rmtree(target)
            made.replace(target)
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror}", "choose a folder with room that you may write to"
        ) from error


def folder_bytes(folder: Path) -> int:
    """The bytes of all files in a checkpoint's folder."""
    return sum(file.stat().st_size for file in folder.iterdir())
