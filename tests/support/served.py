"""A checkpoint being served by a real engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAX_MODEL_LEN = 131_072


@dataclass(frozen=True)
class ServedCheckpoint:
    url: str
    folder: Path
