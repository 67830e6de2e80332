"""How busy this machine's processors are, and with whose work."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_PROC_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class CpuReading:
    """Processor time at one moment, in seconds: the machine's in use, and this process's own."""

    at: float
    busy: float
    own: float


def read_cpu() -> CpuReading | None:
    """Read how busy this machine is; None where that cannot be read (Linux has it)."""
    try:
        line = _PROC_STAT.read_text().partition("\n")[0].split()
        ticks = [int(field) for field in line[1:9]]
    except (OSError, ValueError):
        return None
    busy = sum(ticks) - ticks[3] - ticks[4]  # all but idle and iowait
    return CpuReading(time.perf_counter(), busy / os.sysconf("SC_CLK_TCK"), time.process_time())


def find_others_cpu(before: CpuReading | None, after: CpuReading | None) -> float | None:
    """Return how many processors other programs used between two readings; None for less than a second."""
    if before is None or after is None or after.at - before.at < 1.0:
        return None
    used = (after.busy - before.busy) - (after.own - before.own)
    return max(0.0, used / (after.at - before.at))
