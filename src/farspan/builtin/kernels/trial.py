"""Try kernels in a process of their own: a fault ends that process, and not the server that asked.

On a GPU a fault is for good: nothing can be computed in a process any more that met one. It ends then, and the next one
goes on without the kernel that was at fault (farspan.builtin.kernels.trial_program).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch

# What a first trial takes is mostly the compiler: half a minute at the most. A kernel that hangs is refused then.
_LIMIT_S = 180.0
GROUPED_PRODUCT = "grouped_product"
CUDNN_ATTENTION = "cudnn_attention"


class Tried(NamedTuple):
    """What one process found.

    Attributes:
        refused: What is wrong with which kernel, those included that were left out.
        finished: Whether all others were tried.
    """

    refused: dict[str, str]
    finished: bool


def try_kernels(folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, str] | None:
    """Return what is wrong with which kernel on a device, for the model of a folder; None when nothing can be tried."""
    refused: dict[str, str] = {}
    while True:
        tried = _try_once(folder, device, dtype, refused)
        if tried.finished:
            return tried.refused
        if len(tried.refused) == len(refused):
            return None  # it ended before it came to a kernel, or at one that it was to leave out
        refused = tried.refused


def _try_once(folder: Path, device: torch.device, dtype: torch.dtype, refused: dict[str, str]) -> Tried:
    command = [*_command(), str(folder), str(device), str(dtype).removeprefix("torch."), *refused]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
        output, ending = done.stdout, f"it ended the process that tried it ({done.returncode})"
    except subprocess.TimeoutExpired as expired:
        said = expired.stdout or b""
        output, ending = said.decode() if isinstance(said, bytes) else said, "it does not end"
    found, current, finished = dict(refused), None, False
    for line in output.splitlines():
        if not line.startswith("{"):
            continue
        said_of = json.loads(line)
        finished = finished or "finished" in said_of
        current = said_of.get("trying")
        if said_of.get("problem"):
            found[said_of["tried"]] = said_of["problem"]
    if current is not None:
        found[current] = ending
    return Tried(found, finished)


def _command() -> list[str]:
    return [sys.executable, "-m", "farspan.builtin.kernels.trial_program"]


def device_answers(device: torch.device) -> bool:
    """Whether a device still computes anything for this process."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True
