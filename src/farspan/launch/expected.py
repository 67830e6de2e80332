"""How long a start should take, phase by phase, and how long to wait before calling it dead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from farspan.engines.engine import Engine, StartFigure
from farspan.models.spec import ModelSpec
from farspan.models.weights import rank_weight_bytes

# Fitted to one cold start: Scout's 202 GiB of weights in 476 s on 8x H200, vLLM 0.12.0.
DISK_BYTES_PER_S = 0.456e9
# Assumed: what one connection of a rented machine gets from the hub.
DOWNLOAD_BYTES_PER_S = 0.1e9
_PATIENCE = 3.0
_MARGIN_S = 600.0
_SILENCE_S = 600.0  # the longest quiet step of a start: a compiler at work, or an image's first CUDA kernels


@dataclass(frozen=True, slots=True)
class ExpectedStart:
    """The times of a start.

    Args:
        phases: Phase, by the log reader's names, to seconds.
        weight_bytes: Bytes read from disk by all ranks of one machine.
        basis: Where the times come from.
        figures: What the start prints that the plan predicts.
    """

    phases: Mapping[str, float]
    weight_bytes: int
    basis: str
    figures: tuple[StartFigure, ...] = ()

    @property
    def total_s(self) -> float:
        """The whole start."""
        return sum(self.phases.values())

    @property
    def limit_s(self) -> float:
        """When a start is given up: three times what it should take, and ten minutes."""
        return _PATIENCE * self.total_s + _MARGIN_S

    @property
    def silence_s(self) -> float:
        """How long a start may write nothing to its log. Weights may be read, and downloaded, without a word."""
        return max(_SILENCE_S, _PATIENCE * (self.phases["weights"] + self.phases.get("download", 0.0)))


def expect_start(
    engine: Engine,
    model: ModelSpec,
    ranks: int,
    *,
    disk_bytes_per_s: float = DISK_BYTES_PER_S,
    eager: bool = False,
    downloads: bool = False,
) -> ExpectedStart:
    """The times of a start on one machine.

    Args:
        engine: The engine.
        model: What is loaded.
        ranks: Ranks on this machine; each reads its share.
        disk_bytes_per_s: How fast the weights are read, in bytes/s.
        eager: Whether compiling and CUDA graphs are switched off.
        downloads: Whether the weights must come from the hub first.
    """
    weights = rank_weight_bytes(model, ranks).total * ranks
    beside = engine.start_seconds
    phases = {
        "engine": beside.engine,
        **({"download": rank_weight_bytes(model).total / DOWNLOAD_BYTES_PER_S} if downloads else {}),
        "weights": weights / disk_bytes_per_s,
        "compile": 0.0 if eager else beside.compile,
        "profile": beside.profile,
        "graphs": 0.0 if eager else beside.graphs,
    }
    rate = f"{disk_bytes_per_s / 1e9:.2f} GB/s"
    given = "as given" if disk_bytes_per_s != DISK_BYTES_PER_S else "fitted to one cold start"
    basis = f"weights at {rate} ({given}), {beside.basis}"
    if downloads:
        basis = f"the download at {DOWNLOAD_BYTES_PER_S / 1e9:.2f} GB/s (assumed), {basis}"
    return ExpectedStart(phases, weights, basis, engine.start_figures)
