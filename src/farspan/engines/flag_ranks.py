"""How an engine's own flags divide GPUs, where farspan's --tp is not given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from farspan.engines.engine import Engine
from farspan.engines.registry import all_engines
from farspan.models.spec import ModelSpec

# With SGLang's data-parallel attention the replicas share the tensor-parallel ranks.
_SHARED_RANKS = "--enable-dp-attention"


def choose_tp(spec: ModelSpec, gpus: int, flags: Mapping[str, str | None]) -> int:
    """Return the tensor-parallel size: as the engine's own flags say it, else the largest that the heads allow on the
    GPUs that each stage of each replica has.

    Args:
        spec: The model.
        gpus: All GPUs.
        flags: The engine's own, of any engine.
    """
    if given := _count(flags, lambda engine: engine.tensor_parallel_flags):
        return given
    stages = _count(flags, lambda engine: engine.pipeline_flags) or 1
    replicas = 1 if _SHARED_RANKS in flags else _count(flags, lambda engine: engine.data_parallel_flags) or 1
    return spec.largest_tp(max(1, gpus // (stages * replicas)))


def _count(flags: Mapping[str, str | None], spellings: Callable[[Engine], Sequence[str]]) -> int:
    """Return the number that a flag is given, by any engine's spelling of it; 0 where it is not, or is no number."""
    names = {name for engine in all_engines() for name in spellings(engine)}
    given = next((value or "" for name, value in flags.items() if _is_one(name, names)), "")
    return int(given) if given.isdecimal() else 0


def _is_one(written: str, names: AbstractSet[str]) -> bool:
    """Whether a flag is one of these, with underscores or shortened as the engines take it."""
    name = written.replace("_", "-") if written.startswith("--") else written
    return name in names or (name.startswith("--") and any(flag.startswith(name) for flag in names))
