"""What the planner says about the server of a log: its own arguments put through the memory model of its version."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.server_state import ServerState
from farspan.engines.registry import find_served
from farspan.errors import FarspanError
from farspan.hardware.catalog import find_gpu, gpus
from farspan.hardware.gpu import Gpu
from farspan.models.config import load_model
from farspan.models.spec import KvDtype, ModelSpec
from farspan.models.weights import rank_weight_bytes
from farspan.planner.levers import cheapest_fix
from farspan.planner.plan import plan_engine
from farspan.planner.questions import largest_context
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.sizes import GIB

_CACHE_FOLDER = compile_pattern(r"models--([\w.-]+?)--([\w.-]+)")
_SIZE_TOLERANCE = 0.04
_BUDGET_TOLERANCE = 1.15
_DEFAULT_SHARE = 0.92
_RELEASE = compile_pattern(r"\d+\.\d+(?:\.\d+)?(?:\.post\d+)?")


@dataclass(frozen=True, slots=True)
class PlannedServer:
    """The plan for the server of a log.

    Args:
        request: What it was asked to do.
        plan: What the memory model says of that.
        fix: Changes that make it fit, as the planner words them; empty when it fits or nothing helps.
        fixed: The plan after them, None when there are none.
        longest: The longest context that fits with the arguments as they are; 0 when none does.
    """

    request: PlanRequest
    plan: EnginePlan
    fix: tuple[str, ...]
    fixed: EnginePlan | None
    longest: int

    def steps(self) -> tuple[str, ...]:
        """The fix, ready to follow: flags first, then what they give."""
        if self.fixed is None:
            return ()
        gives = (
            f"with {'them' if len(self.fix) > 1 else 'it'} the planner expects a longest request of "
            f"{self.fixed.capacity_tokens:,} tokens, {self.fixed.max_concurrency:.2f} of "
            f"{self.request.context:,} tokens at once"
        )
        return (f"{', '.join(self.fix)}: {gives}",)


def spec_of(server_state: ServerState) -> ModelSpec | None:
    """The model of a log, when farspan knows it or its folder is on this machine. Never asks the network."""
    given = server_state.model
    names = [given]
    cached = _CACHE_FOLDER.search(given)
    if cached is not None:
        names.append(f"{cached[1]}/{cached[2]}")
    folder = Path(given).name
    if folder and folder != given:
        names.append(folder)
    for name in names:
        spec = _load(name) if name else None
        if spec is not None:
            return spec
    return None


@lru_cache(maxsize=32)
def _load(name: str) -> ModelSpec | None:
    try:
        return load_model(name, allow_network=False)
    except (FarspanError, OSError, ValueError):
        return None


def gpu_of(server_state: ServerState) -> Gpu | None:
    """The GPU of a log: by name where it is named, else the one whose memory fits best."""
    name = server_state.hints.gpu or server_state.gpu_name
    if name:
        for part in (name, *name.replace("_", " ").split()):
            try:
                return find_gpu(part)
            except FarspanError:
                continue
    gib = server_state.gpu_total_gib or server_state.figures.get("free_before_gib")
    if gib is None:
        return _gpu_by_budget(server_state)
    nearest = min(gpus(), key=lambda gpu: abs(gpu.memory_bytes / GIB - gib))
    return nearest if abs(nearest.memory_bytes / GIB - gib) <= _SIZE_TOLERANCE * gib else None


def _gpu_by_budget(server_state: ServerState) -> Gpu | None:
    """The smallest GPU whose memory covers weights and KV cache of a vLLM log: the rest of its budget is small."""
    available, share = (
        server_state.figures.get("available_kv_gib"),
        server_state.number("gpu_memory_utilization"),
    )
    spec, weights = spec_of(server_state), server_state.figures.get("weights_gib")
    if weights is None and spec is not None:
        try:
            weights = rank_weight_bytes(spec, server_state.tp).total / GIB
        except FarspanError:
            weights = None
    if available is None or available <= 0 or weights is None:
        return None
    least = (available + weights) / (share or _DEFAULT_SHARE) * GIB
    fitting = [gpu for gpu in gpus() if least <= gpu.memory_bytes <= least * _BUDGET_TOLERANCE]
    return min(fitting, key=lambda gpu: gpu.memory_bytes, default=None)


def planned_version(server_state: ServerState) -> str:
    """The version to plan with: as given, as logged without its build, or as SGLang's arguments look."""
    logged = _RELEASE.match(server_state.hints.engine_version or server_state.version)
    return logged[0] if logged is not None else server_state.version_like


def request_of(server_state: ServerState, *, logged_kv: bool = True) -> PlanRequest | None:
    """The question the server's own arguments ask; None when the log does not show model, GPU and context.

    Args:
        server_state: What the log tells.
        logged_kv: Whether the KV memory that vLLM printed stands in the place of the plan's own.
    """
    spec, gpu, engine = spec_of(server_state), gpu_of(server_state), find_served(server_state.engine)
    if spec is None or gpu is None or engine is None or not engine.logged_flags:
        return None
    context = server_state.context or spec.max_position_embeddings
    dtype = server_state.text("kv_cache_dtype") or "auto"
    try:
        kv_dtype = KvDtype("fp8_e4m3" if dtype == "fp8" else dtype)
    except ValueError:
        kv_dtype = KvDtype.AUTO
    flags: dict[str, str | None] = {}
    for name in engine.logged_flags:
        value = server_state.args.get(name)
        if value is None or value is False or value == engine.logged_defaults.get(name):
            continue
        flags[f"--{name.replace('_', '-')}"] = None if value is True else str(value)
    takes_kv = logged_kv and server_state.engine == "vllm"
    available = server_state.figures.get("available_kv_gib") if takes_kv else None
    return PlanRequest(
        model=spec,
        gpu=gpu,
        gpus=server_state.tp,
        tp=server_state.tp,
        context=min(context, spec.max_position_embeddings),
        kv_dtype=kv_dtype,
        engine_version=planned_version(server_state),
        accept_nearest_version=True,
        as_given=True,  # the server ran with these, and with nothing that a plan would add
        available_kv_bytes=round(available * GIB) if available and available > 0 else None,
        engine_flags=flags,
    )


def planned(server_state: ServerState) -> PlannedServer | None:
    """Plan the server of a log, and what would make it fit; None when the log does not show enough."""
    request, engine = request_of(server_state), find_served(server_state.engine)
    if request is None or engine is None:
        return None
    try:
        plan = plan_engine(request, engine)
        levers = () if plan.fits else cheapest_fix(request, plan, engine)
        longest = request.context if plan.fits else largest_context(request, engine)
    except FarspanError:
        return None
    return PlannedServer(
        request,
        plan,
        tuple(lever.change for lever in levers),
        levers[-1].plan if levers else None,
        longest,
    )
