"""The JSON objects a plan document is made of: a dataclass each, whose fields are the keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from farspan.planner.json_records import write_record
from farspan.sizes import GIB


@dataclass(frozen=True, slots=True)
class ParametersRecord:
    """Parameters of the model: all, and those that work on each token."""

    total: int
    active: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """What was asked; None for what a sweep varies or a search looks for.

    Args:
        model, gpu: Their names.
        gpu_memory_bytes: Memory of one GPU, and where the figure is from.
        gpus: GPUs at hand.
        tp: Tensor-parallel size.
        context: Tokens of a request, prompt and answer together.
        concurrency: Requests at once.
        output_tokens: Tokens of the answer.
        kv_dtype: The KV cache type asked for.
        notes: What the model's spec leaves out.
        parameters: Of the model; None in version 1.
        kv_bytes_per_token: What a token takes in the KV cache of all GPUs together, in bf16, while every layer keeps
            it: at TP 1, where no head is copied. None in version 1.
    """

    model: str
    gpu: str
    gpu_memory_bytes: int
    gpu_memory_basis: str
    gpus: int | None = None
    tp: int | None = None
    context: int | None = None
    concurrency: int | None = None
    output_tokens: int
    kv_dtype: str
    notes: tuple[str, ...]
    parameters: ParametersRecord | None = None
    kv_bytes_per_token: int | None = None

    @property
    def hardware(self) -> str:
        """Such as `8x H200`; without the number where it is looked for."""
        return f"{self.gpus}x {self.gpu}" if self.gpus and self.gpu else self.gpu


@dataclass(frozen=True, slots=True)
class KvKindRecord:
    """Layers that keep the same of a request, and the bytes they keep on one GPU."""

    layers: int
    keeps: str
    bytes: int


@dataclass(frozen=True, slots=True)
class KvRecord:
    """What one request keeps on one GPU, engines' rounding apart."""

    dtype: str
    bytes_per_token: int
    bytes: int
    gib: float
    kinds: tuple[KvKindRecord, ...]


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """One line of the ledger: see `farspan.planner.ledger.Allocation`."""

    name: str
    bytes: int
    gib: float
    when: str
    where: str
    grows_with: str
    formula: str
    source: str
    basis: str

    @property
    def on_gpu(self) -> bool:
        """Whether the bytes are the GPU's, not the machine's."""
        return self.where == "gpu"


@dataclass(frozen=True, slots=True)
class TermRecord:
    """One part of the time to the first token, in seconds."""

    name: str
    floor: float
    expected: float
    formula: str


@dataclass(frozen=True, slots=True)
class TtftRecord:
    """Time to the first token of one request alone on the server, in seconds.

    Args:
        floor: What no hardware of this kind can beat.
        expected: What to expect.
        basis: How the expectation was reached, in words.
        fitted: Whether it was fitted to this engine on this GPU; else efficiencies are assumed.
        terms: Its parts.
    """

    floor: float
    expected: float
    basis: str
    fitted: bool
    terms: tuple[TermRecord, ...]


@dataclass(frozen=True, slots=True)
class ItlRecord:
    """Time between tokens of one request alone on the server, in seconds."""

    floor: float
    expected: float


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """Requests sent at once: see `farspan.planner.load_time.LoadEstimate`."""

    concurrency: int
    running: int
    ttft_first_s: float
    ttft_mean_s: float
    ttft_last_s: float
    itl_s: float
    basis: str


@dataclass(frozen=True, slots=True)
class LeverRecord:
    """One change that helps, by itself: see `farspan.planner.levers.Lever`."""

    change: str
    costs: str
    bytes_freed: int
    capacity_tokens: int
    fits: bool


@dataclass(frozen=True, slots=True)
class FixRecord:
    """The changes that together make it fit, and the plan after them."""

    changes: tuple[str, ...]
    flags: tuple[str, ...]
    env: Mapping[str, str]
    version: str
    capacity_tokens: int
    max_concurrency: float


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """What this machine was found to do, as far as a plan uses it: see `farspan.planner.calibration.Calibration`.

    Args:
        date: The day it was fitted.
        model, runs: What ran, and what was measured.
        fitted: What was fitted, in words.
        conditions: The conditions it holds in, in words.
    """

    date: str
    model: str
    runs: str
    fitted: tuple[str, ...]
    conditions: str


# The keys of one engine's plan; documents have more or fewer.
TIME_KEYS = ("ttft_s", "itl_s", "prefill_tokens_per_s")
PLAN_KEYS = (
    "engine", "version", "starts", "fits", "fits_with_defaults", "added", "reason", "weights_gib", "available_kv_gib",
    "available_kv_bytes", "capacity_tokens", "max_concurrency", "printed", "pools", "ledger", "free_gib", "flags",
    "env", "warnings", "notes", *TIME_KEYS, "under_load", "request_kv_bytes", "request_kv_reason",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """What one engine would do with one context: see `farspan.planner.request.EnginePlan`.

    A sweep has neither ledger nor flags, a search no levers, and an engine that refuses the request nothing but its
    reason. Fields that the document does not have are None or empty.
    """

    engine: str
    context: int | None = None
    version: str | None = None
    refused: bool = False
    starts: bool = False
    fits: bool
    fits_with_defaults: bool
    added: tuple[str, ...]
    reason: str
    weights_gib: float | None = None
    available_kv_gib: float | None = None
    available_kv_bytes: int | None = None
    capacity_tokens: int = 0
    max_concurrency: float = 0.0
    printed: Mapping[str, int | float | str] = field(default_factory=dict)
    pools: Mapping[str, int] = field(default_factory=dict)
    ledger: tuple[LedgerRecord, ...] = ()
    free_gib: float | None = None
    flags: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ttft_s: TtftRecord | None = None
    itl_s: ItlRecord | None = None
    prefill_tokens_per_s: float | None = None
    under_load: LoadRecord | None = None
    levers: tuple[LeverRecord, ...] = ()
    fix: FixRecord | None = None
    calibration: CalibrationRecord | None = None
    request_kv_bytes: int | None = None
    request_kv_reason: str = ""

    @property
    def kv_room_bytes(self) -> float | None:
        """Room for KV on one GPU; to the ten-thousandth of a GiB where a sweep has only that."""
        if self.available_kv_bytes is not None:
            return float(self.available_kv_bytes)
        return None if self.available_kv_gib is None else self.available_kv_gib * GIB

    def to_json(self) -> dict[str, Any]:
        """Write the plan by itself, without levers."""
        return write_record(self, self.keys(PLAN_KEYS))

    def keys(self, keys: tuple[str, ...]) -> tuple[str, ...]:
        """The keys of a document, and those that only some plans have."""
        return keys if self.calibration is None else (*keys, "calibration")


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """What a search found for one engine.

    Args:
        value: The answer; 0 when nothing fits.
        tp: Tensor-parallel size of one server; 0 when nothing fits.
        servers: Servers alike; 0 when nothing fits.
        refusal: Why the engine refuses the request; None when it does not.
        why_not: By what even the least that is asked misses the times to be kept; None where that is not the reason.
        missed_ttft_s: The last request's time to first token then, where it is what is missed.
        missed_itl_s: Time between tokens then, where it is what is missed.
        plan: The plan of one server with that answer.
    """

    value: int
    tp: int
    servers: int
    refusal: str | None
    why_not: str | None = None
    missed_ttft_s: float | None = None
    missed_itl_s: float | None = None
    plan: EngineRecord | None = None
