"""The log of a server that is held, kept where the report finds it."""

from __future__ import annotations

import shutil
from pathlib import Path

from farspan.launch.serve import ServedModel

LOG_FILE = "server.log"


def keep_log(served: ServedModel, folder: Path) -> None:
    """Copy the log as far as it has come; nothing where there is no folder or no log yet."""
    if folder.is_dir() and served.log.exists():
        shutil.copyfile(served.log, folder / LOG_FILE)
