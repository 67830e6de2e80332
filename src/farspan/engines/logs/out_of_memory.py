"""torch's out-of-memory message, read."""

from __future__ import annotations

import re
from typing import NamedTuple

from farspan.engines.logs.pattern import compile_pattern

PATTERN = compile_pattern(
    r"(?:CUDA|HIP|XPU) out of memory\. Tried to allocate (?P<wanted>\d+(?:\.\d+)?) (?P<unit>[KMG]iB)"
    r"(?:.{0,80}?total capacity of (?P<total>\d+(?:\.\d+)?) GiB)?"
    r"(?:.{0,80}?which (?P<free>\d+(?:\.\d+)?) (?P<free_unit>bytes|[KMG]iB) is free)?"
    r"(?:.{0,200}?(?:this process|Process \d+) has (?P<used>\d+(?:\.\d+)?) GiB memory in use)?"
    r"|(?:CUDA|HIP) (?:driver )?error:? ?(?:\(\d+\)|2)?:? ?out of memory|cudaErrorMemoryAllocation|"
    r"hipErrorOutOfMemory"
    r"|CUBLAS_STATUS_(?:ALLOC_FAILED|NOT_INITIALIZED)|Failed to CUDA (?:calloc|malloc)|Cuda failure (?:2 "
    r")?'out of memory'"
)
_UNITS = {"bytes": 2.0**-30, "KiB": 2.0**-20, "MiB": 2.0**-10, "GiB": 1.0}


class OutOfMemory(NamedTuple):
    """The figures of one message, GiB; None where it does not say."""

    wanted_gib: float | None
    total_gib: float | None
    free_gib: float | None
    used_gib: float | None

    @property
    def others_gib(self) -> float | None:
        """Memory on that GPU in use by other processes."""
        if self.total_gib is None or self.free_gib is None or self.used_gib is None:
            return None
        return self.total_gib - self.free_gib - self.used_gib

    def words(self) -> str:
        """The figures as part of a sentence."""
        if self.wanted_gib is None:
            return "the message has no figures"
        said = f"{_size(self.wanted_gib)} wanted"
        if self.free_gib is not None:
            said += f", {_size(self.free_gib)} free"
        if self.total_gib is not None:
            said += f" of {self.total_gib:.2f} GiB"
        return said


def _size(gib: float) -> str:
    return f"{gib:.2f} GiB" if gib >= 0.1 or not gib else f"{gib * 1024:.1f} MiB"


def read(match: re.Match[str]) -> OutOfMemory:
    """The figures of a match of `PATTERN`."""

    def gib(value: str, unit: str) -> float | None:
        number = match[value]
        return None if number is None else float(number) * _UNITS[match[unit] if unit else "GiB"]

    return OutOfMemory(gib("wanted", "unit"), gib("total", ""), gib("free", "free_unit"), gib("used", ""))
