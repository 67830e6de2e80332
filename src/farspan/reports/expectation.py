"""What the plan that belongs to a run expected: times, memory and flags, and where the plan has them from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from farspan.errors import InputError
from farspan.measurement.analysis.plan_beside_run import TtftPlan, choose_engine
from farspan.measurement.analysis.plan_times import list_planned
from farspan.measurement.environment import read_document
from farspan.measurement.run_folder import ENVIRONMENT_FILE
from farspan.sizes import GIB


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One line of the planned memory of one GPU, in bytes."""

    name: str
    bytes: float
    basis: str


@dataclass(frozen=True, slots=True)
class Expectation:
    """A plan of one engine, as a report needs it; None or empty where the plan does not say.

    Args:
        engine, version: Whose plan it is.
        hardware: Such as `8x H200`.
        times: Planned TTFT by context.
        basis: Where the times come from, in the plan's words.
        fitted: Whether they were fitted to this engine on these GPUs.
        itl_s: Context to expected time between tokens, in seconds.
        weights_bytes, kv_bytes, gpu_bytes: Of one GPU.
        ledger: Every line of one GPU's memory; only a plan of a single context has them.
        flags: The planned command line flags.
    """

    engine: str
    version: str
    hardware: str
    times: TtftPlan
    basis: str
    fitted: bool
    itl_s: Mapping[int, float] = field(default_factory=dict)
    kv_bytes: float | None = None
    gpu_bytes: float | None = None
    ledger: tuple[LedgerLine, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def trust(self) -> str:
        """`fitted` or `assumed`: how far its times can be trusted."""
        return "fitted" if self.fitted else "assumed"


def find_expectation(folder: Path, engine: str | None, given: Path | None = None) -> Expectation | None:
    """Return what the plan of a run expects of its engine.

    Args:
        folder: The run folder: the plan of the last start that had one is taken.
        engine: The engine measured, as /v1/models names its owner.
        given: A file of `farspan plan --json` to take instead.

    Raises:
        InputError: The given file is no plan.
    """
    if given is not None:
        try:
            document = orjson.loads(given.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise InputError(
                f"{given} cannot be read ({error})", "write it with farspan plan --json"
            ) from error
        if not list_planned(document):
            raise InputError(f"{given} holds no planned time", "write it with farspan plan ... --json")
        return read_expectation(document, engine)
    kept = read_document(folder / ENVIRONMENT_FILE)
    starts = kept.get("starts") if isinstance(kept, dict) else None
    plans = [start.get("plan") for start in starts or () if isinstance(start, dict)]
    known = [plan for plan in plans if isinstance(plan, dict)]
    return read_expectation(known[-1], engine) if known else None


def read_expectation(plan: dict[str, Any], engine: str | None) -> Expectation | None:
    """Read one engine's part of what `farspan plan --json` printed; None when it has none for this engine."""
    planned = list_planned(plan)
    times = choose_engine(planned, engine)
    if times is None or not times.times:
        return None
    name = next(iter(times.times.values())).engine
    rows = _rows_of(plan, name)
    last = rows[-1] if rows else {}
    ttft = as_mapping(last.get("ttft_s"))
    gpus, gpu = plan.get("gpus"), plan.get("gpu")
    itl = {row.get("context"): as_number(as_mapping(row.get("itl_s")).get("expected")) for row in rows}
    return Expectation(
        engine=name,
        version=str(last.get("version") or ""),
        hardware=f"{gpus}x {gpu}" if gpus and gpu else "",
        times=times,
        basis=str(ttft.get("basis") or ""),
        fitted=ttft.get("fitted") is True,
        itl_s={context: value for context, value in itl.items() if isinstance(context, int) and value},
        kv_bytes=read_kv_bytes(last),
        gpu_bytes=as_number(plan.get("gpu_memory_bytes")),
        ledger=_read_ledger(last.get("ledger")),
        flags=tuple(str(flag) for flag in as_list(last.get("flags"))),
    )


def read_kv_bytes(entry: Mapping[str, Any]) -> float | None:
    """Return the room for KV on one GPU that an engine's plan has, in bytes; None when it does not say."""
    gib = as_number(entry.get("available_kv_gib"))
    return as_number(entry.get("available_kv_bytes")) or (gib * GIB if gib is not None else None)


def _rows_of(plan: dict[str, Any], engine: str) -> list[dict[str, Any]]:
    """Return an engine's rows by context: those of a sweep, or the one of a single context."""
    points = plan.get("points")
    if isinstance(points, list):
        rows = [row for row in points if isinstance(row, dict) and row.get("engine") == engine]
    else:
        row = as_mapping(as_mapping(plan.get("engines")).get(engine))
        rows = [{**row, "context": plan.get("context")}] if row else []
    return sorted(
        (row for row in rows if isinstance(row.get("context"), int)), key=lambda row: row["context"]
    )


def _read_ledger(lines: Any) -> tuple[LedgerLine, ...]:
    found = []
    for line in as_list(lines):
        size = as_number(line.get("bytes")) if isinstance(line, dict) else None
        if size is not None and line.get("where") == "gpu":
            found.append(LedgerLine(str(line.get("name")), size, str(line.get("basis") or "")))
    return tuple(found)


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return what should be a JSON object; an empty one when it is not."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return what should be a JSON array; an empty one when it is not."""
    return value if isinstance(value, list) else []


def as_number(value: Any) -> float | None:
    """Return what should be a number above 0; None when it is not."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return float(value) if good else None
