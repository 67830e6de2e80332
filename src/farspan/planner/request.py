"""The question put to an engine's memory model, and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from farspan.errors import InputError
from farspan.hardware.gpu import Gpu
from farspan.models.spec import KvDtype, ModelSpec

if TYPE_CHECKING:
    from farspan.planner.calibration import Calibration, CalibrationKey, Calibrations
    from farspan.planner.ledger import MemoryLedger
    from farspan.planner.timing import TimeEstimate

EngineFlags = Mapping[str, str | None]
_LARGEST_NUMBER = 1e15


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is asked of one engine.

    Args:
        model: The model.
        gpu: The GPU, all alike.
        gpus: GPUs at hand.
        tp: Tensor-parallel size; one rank a GPU, `tp <= gpus`.
        context: Longest request in tokens, prompt and answer together (`--max-model-len`).
        concurrency: Requests of that length that must run at once.
        kv_dtype: The KV cache type asked for.
        engine_version: A version of the engine; empty for the newest one known.
        accept_nearest_version: Plan with the nearest known version when `engine_version` is not known.
        available_kv_bytes: The engine's own figure for KV memory on one GPU, from a log; replaces ours.
        engine_flags: Flags as given to the engine, keys with their dashes, None for a switch; environment
            variables by their names.
        output_tokens: Tokens of the answer, for the time of a whole request.
        host_memory_bytes: RAM of the machine, when known.
        replicas: Data-parallel engines of which this is one.
        as_given: Plan exactly the flags given: add none that would make the request fit.
        calibrations: What runs on this machine taught; those whose conditions are the plan's are used.
    """

    model: ModelSpec
    gpu: Gpu
    gpus: int
    tp: int
    context: int
    concurrency: int = 1
    kv_dtype: KvDtype = KvDtype.AUTO
    engine_version: str = ""
    accept_nearest_version: bool = False
    available_kv_bytes: int | None = None
    engine_flags: EngineFlags = field(default_factory=dict)
    output_tokens: int = 200
    host_memory_bytes: int | None = None
    as_given: bool = False
    replicas: int = 1
    calibrations: Calibrations = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What is assumed of the GPU, then what is known of the model's figures."""
        return (*((self.gpu.assumed,) if self.gpu.assumed else ()), *self.model.notes)

    def at(self, context: int) -> PlanRequest:
        """The same question about another context."""
        return self._changed(context, self.engine_flags)

    def with_flags(self, engine_flags: EngineFlags) -> PlanRequest:
        """The same question with other engine flags."""
        return self._changed(self.context, engine_flags)

    def _changed(self, context: int, engine_flags: EngineFlags) -> PlanRequest:
        """What dataclasses.replace would give: sweeps ask for every point, and that is four times as slow."""
        return PlanRequest(
            self.model,
            self.gpu,
            self.gpus,
            self.tp,
            context,
            self.concurrency,
            self.kv_dtype,
            self.engine_version,
            self.accept_nearest_version,
            self.available_kv_bytes,
            engine_flags,
            self.output_tokens,
            self.host_memory_bytes,
            self.as_given,
            self.replicas,
            self.calibrations,
        )

    def has_flag(self, *names: str) -> bool:
        """Whether any of these spellings was given."""
        return any(name in self.engine_flags for name in names)

    def int_flag(self, default: int, *names: str) -> int:
        """The whole number given under one of these spellings, else `default`.

        Raises:
            InputError: What was given is not a whole number.
        """
        text = self.text_flag("", *names)
        try:
            return int(text) if text else default
        except ValueError:
            raise InputError(f"{names[0]} {text!r} is not a whole number", "write it in digits") from None

    def float_flag(self, default: float, *names: str) -> float:
        """The number given under one of these spellings, else `default`.

        Raises:
            InputError: What was given is not a number, or one beyond any flag's.
        """
        text = self.text_flag("", *names)
        try:
            value = float(text) if text else default
            if not abs(value) <= _LARGEST_NUMBER:
                raise ValueError
            return value
        except ValueError:
            raise InputError(f"{names[0]} {text!r} is not a number", "write it as 0.85") from None

    def text_flag(self, default: str, *names: str) -> str:
        """The text given under one of these spellings, else `default`.

        Raises:
            InputError: The flag was given without the value it needs.
        """
        for name in names:
            if name in self.engine_flags:
                text = self.engine_flags[name]
                if text is None:
                    raise InputError(f"{name} needs a value", f"write {name} VALUE")
                return text
        return default


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What one engine would do with a request.

    Args:
        engine: "vllm", "sglang" or "builtin".
        version: The version whose arithmetic was used.
        starts: Whether the server would start at all.
        fits: Whether, with `flags` and `env`, it starts and `concurrency` requests of `context` tokens run
            at once.
        reason: One sentence: why it fits, or which allocation breaks it and by how much.
        weights_bytes: Weights on one GPU as the engine loads them, RoPE tables and the allocator's rounding included.
        available_kv_bytes: What is left for KV on one GPU.
        capacity_tokens: Longest single request, prompt and answer together, with these flags.
        max_concurrency: Requests of `context` tokens at once, a ratio; the engine's own figure if it has one.
        printed: Figures this version prints at start, by its own words.
        pools: Tokens that fit, by kind of pool.
        ledger: Every allocation on one GPU.
        flags: The engine's arguments, ready to paste, one word an item.
        env: Environment variables the flags need.
        warnings: What breaks or may break a server, a request or the plan itself; one sentence each.
        notes: What explains the figures; one sentence each.
        time: How long one request takes.
        added: Flags and variables in `flags` and `env` that nobody gave: farspan set them to make it fit.
        program: What starts the engine by hand, `{model}` standing for the model; empty in outlines.
        request_kv_bytes: What one request of the asked context takes of the KV room of one GPU, rounded as the engine
            rounds; None where no server is planned.
        request_kv_reason: Why that is more than the layers need, in words; empty where it is not.
        conditions: What a calibration of this plan would be kept under; None where no server is planned.
        calibration: The calibration it uses; None where this machine has none of these conditions.
    """

    engine: str
    version: str
    starts: bool
    fits: bool
    reason: str
    weights_bytes: int
    available_kv_bytes: int
    capacity_tokens: int
    max_concurrency: float
    printed: Mapping[str, int | float | str]
    pools: Mapping[str, int]
    ledger: MemoryLedger
    flags: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    time: TimeEstimate | None = None
    added: tuple[str, ...] = ()
    program: tuple[str, ...] = ()
    request_kv_bytes: int | None = None
    request_kv_reason: str = ""
    conditions: CalibrationKey | None = None
    calibration: Calibration | None = None

    @property
    def fits_with_defaults(self) -> bool:
        """Whether it fits with what was given alone, the engine's defaults for the rest.

        Planners add something only where that does not fit.
        """
        return self.fits and not self.added
