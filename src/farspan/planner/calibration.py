"""What runs on this machine taught the planner: efficiencies and memory of one engine, under certain conditions.

A calibration stands beside the fits that farspan ships (`timing_fits`) and comes before them where its key is the
plan's own. The models stay as they are: only the shares of the peaks, the seconds of a step and two memory lines are
replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from farspan.models.spec import KvDtype
from farspan.planner.timing_fits import Fit
from farspan.sizes import GIB


class CalibrationKey(NamedTuple):
    """The conditions a calibration holds in.

    Args:
        engine: The engine's name.
        version: The version whose rules plan it.
        backend: Its attention backend as the plan knows it; empty for the engine's own choice.
        kv: "bf16" or "fp8".
        gpu: The GPU's name.
        eager: Whether it runs without CUDA graphs.
        experts: Whether the model has experts.
    """

    engine: str
    version: str
    backend: str
    kv: str
    gpu: str
    eager: bool
    experts: bool

    def __str__(self) -> str:
        """In words."""
        words = (
            self.engine,
            self.version,
            self.backend,
            f"{self.kv} KV on {self.gpu}",
            "eager" if self.eager else "",
            "with experts" if self.experts else "",
        )
        return " ".join(word for word in words if word)


class Calibration(NamedTuple):
    """What was fitted to runs on this machine. None stands for what the runs did not tell.

    Args:
        engine, version, backend, kv, gpu, eager, experts: The key: see `CalibrationKey`.
        date: The day it was fitted, such as 2026-12-01.
        model: What ran.
        runs: What was measured, in words.
        ranks: Tensor-parallel ranks that ran; one alone pays no collectives.
        linear: Share of the peak in matrix products of weights.
        attention: Share of the peak in attention.
        decode: Share of the memory bandwidth while decoding.
        step_s: Seconds of a decoding step besides reading memory.
        launches: Of an eager engine, what launching a step's kernels takes over what the planner assumes.
        outside_torch_bytes: What a GPU lost before the KV cache that the plan did not see; below 0 where it saw more.
        graphs_share: What CUDA graphs took over what was planned.
    """

    engine: str
    version: str
    backend: str
    kv: str
    gpu: str
    eager: bool
    experts: bool
    date: str
    model: str
    runs: str
    ranks: int = 1
    linear: float | None = None
    attention: float | None = None
    decode: float | None = None
    step_s: float | None = None
    launches: float | None = None
    outside_torch_bytes: int | None = None
    graphs_share: float | None = None

    @property
    def key(self) -> CalibrationKey:
        """The conditions it holds in."""
        return CalibrationKey(
            self.engine, self.version, self.backend, self.kv, self.gpu, self.eager, self.experts
        )

    @property
    def fitted(self) -> tuple[str, ...]:
        """What was fitted, in words; nothing where the runs told nothing."""
        said = []
        if self.linear is not None and self.attention is not None:
            said.append(
                f"prefill {self.linear:.2f} of the peak for weights and {self.attention:.2f} for attention"
            )
        if self.decode is not None and self.step_s is not None:
            said.append(f"decoding {self.decode:.2f} of the bandwidth and {self.step_s * 1000:.1f} ms a step")
        if self.launches is not None:
            said.append(f"launching a step's kernels {self.launches:.2f} of what is assumed")
        if self.outside_torch_bytes is not None:
            said.append(f"memory before the KV cache {self.outside_torch_bytes / GIB:+.2f} GiB")
        if self.graphs_share is not None:
            said.append(f"CUDA graphs {self.graphs_share:.2f} of what is planned")
        return tuple(said)

    @property
    def source(self) -> str:
        """Where its figures are from, for a line of the ledger."""
        return f"calibrated on this machine, {self.date}"

    @property
    def basis(self) -> str:
        """How its times were reached, in words."""
        return f"{self.source}: {self.runs}, {self.model}"

    @property
    def note(self) -> str:
        """One sentence for a plan that uses it."""
        what = "; ".join(self.fitted)
        return (
            f"Calibrated on this machine, {self.date}, by {self.model} ({self.runs}): {what}. --no-calibration plans "
            "without."
        )

    def apply_to(self, fit: Fit) -> Fit:
        """A fit with everything in it that the runs told."""
        return fit._replace(
            **{
                name: value
                for name in ("linear", "attention", "decode", "step_s")
                if (value := getattr(self, name)) is not None
            }
        )


class MemoryCalibration(NamedTuple):
    """The part of a calibration that changes a ledger.

    Args:
        outside_torch_bytes: What a GPU loses before the KV cache beside what is planned.
        graphs_share: What CUDA graphs take over what is planned.
        source: Where that is from.
    """

    outside_torch_bytes: int
    graphs_share: float
    source: str


Calibrations = tuple[Calibration, ...]


def find_calibration(calibrations: Iterable[Calibration], key: CalibrationKey) -> Calibration | None:
    """The calibration whose conditions are exactly these."""
    return next((one for one in calibrations if one.key == key), None)


def memory_of(calibration: Calibration | None) -> MemoryCalibration | None:
    """What a calibration says of memory; None where it says nothing."""
    if calibration is None or (calibration.outside_torch_bytes is None and calibration.graphs_share is None):
        return None
    share = calibration.graphs_share
    return MemoryCalibration(
        calibration.outside_torch_bytes or 0, 1.0 if share is None else share, calibration.source
    )


def kv_name(kv_dtype: KvDtype) -> str:
    """A KV cache type as keys and fits name it."""
    return "fp8" if kv_dtype.is_fp8 else "bf16"
