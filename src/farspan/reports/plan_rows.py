"""Plans that no run belongs to: what `farspan plan --json` printed, read as the rows and series of a report."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from farspan.errors import InputError
from farspan.measurement.analysis.measure import Result
from farspan.reports.expectation import (
    Expectation,
    as_list,
    as_mapping,
    as_number,
    read_expectation,
    read_kv_bytes,
)
from farspan.reports.report_run import MOST_RUNS, name_engine

_ADVICE = "write it with farspan plan ... --json"
# What `farspan plan --find` looked for.
FINDINGS = ("context", "concurrency", "gpus")


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """What the plan says of one context; None or empty where it does not.

    Args:
        context, concurrency: Tokens of a request, and how many at once.
        fits: Whether it does, with the planned flags.
        refused: Whether the planner would not plan it at all.
        reason: Why it fits, does not, or is refused.
        expected_s, floor_s, itl_s: TTFT to expect, TTFT that no such hardware can beat, and time between tokens, in
            seconds, of a request alone on the server.
        rate: Prefill, tokens a second.
        capacity: Tokens of the longest single request that would fit.
        most: Requests of this context that fit at once.
        kv_bytes: Room for KV on one GPU.
    """

    context: int | None
    concurrency: int | None
    fits: bool
    refused: bool
    reason: str
    expected_s: float | None
    floor_s: float | None
    itl_s: float | None
    rate: float | None
    capacity: int | None
    most: float | None
    kv_bytes: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to change where it does not fit: what it costs the user, and bytes of one GPU it frees."""

    change: str
    costs: str
    bytes_freed: float
    capacity: int | None
    fits: bool


@dataclass(frozen=True, slots=True)
class Planned:
    """One engine on one kind of GPU: what a report shows as a series.

    Args:
        key: `a`, `b`, ...: its name in drawings and anchors.
        name: What tells it from the others.
        model, engine, hardware: In words.
        facts: What was asked, as the plan has it.
        rows: By context.
        find, found: What was searched for (one of `FINDINGS`, else empty) and the answer.
        plan: Its times, memory and flags; None when it was refused throughout.
        command: Environment and flags, ready to paste; empty when there are none.
        added: Flags that the planner added to the engine's defaults.
        changes: What else would help, each alone, where it does not fit.
        remedy: What makes it fit together, and those flags; empty when nothing does or need be.
        warnings: The plan's own.
        bases: Ledger lines and their bytes by basis: `mirrored`, `fitted`, `assumed`.
        gpu_basis: Where the GPU's memory is from.
    """

    key: str
    name: str
    model: str
    engine: str
    hardware: str
    facts: tuple[tuple[str, str], ...]
    rows: tuple[PlannedRow, ...]
    find: str
    found: int | None
    plan: Expectation | None
    command: str
    added: tuple[str, ...]
    changes: tuple[Change, ...]
    remedy: tuple[str, str]
    warnings: tuple[str, ...]
    bases: Mapping[str, tuple[int, float]]
    gpu_basis: str

    @property
    def results(self) -> tuple[Result, ...]:
        """Nothing was measured."""
        return ()

    @property
    def fits(self) -> bool:
        """Whether all that was asked fits."""
        return bool(self.rows) and all(row.fits for row in self.rows)


def is_plan(path: Path) -> bool:
    """Tell whether a path is a file, as a plan is, and not a run folder."""
    return path.is_file()


def load_planned(paths: Sequence[Path]) -> tuple[Planned, ...]:
    """Read plans: every engine of every plan is a series.

    Args:
        paths: Files of `farspan plan --json`: of one context, a sweep, or a search.

    Raises:
        InputError: One cannot be read or is no plan, or there are too many series for one page.
    """
    series = [one for path in paths for one in _read(path)]
    if len(series) > MOST_RUNS:
        raise InputError(
            f"{len(series)} plans are too many for one page",
            f"a page takes {MOST_RUNS}: plan one engine with --engine, or make several reports",
        )
    keyed = [replace(one, key=chr(ord("a") + index)) for index, one in enumerate(series)]
    return _name_apart(keyed)


def _read(path: Path) -> list[Planned]:
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as a plan ({error})", _ADVICE) from error
    document = as_mapping(document)
    parts = list(as_mapping(document.get("by_gpu")).values()) or [document]
    found = [
        _read_engine(as_mapping(part), engine) for part in parts for engine in _engines_of(as_mapping(part))
    ]
    if not found:
        raise InputError(f"{path} is no plan: it names no engine", _ADVICE)
    return found


def _engines_of(plan: Mapping[str, Any]) -> list[str]:
    points = [as_mapping(point) for point in as_list(plan.get("points"))]
    named = [str(point["engine"]) for point in points if point.get("engine")] or list(
        as_mapping(plan.get("engines"))
    )
    return list(dict.fromkeys(named))


def _read_engine(plan: Mapping[str, Any], engine: str) -> Planned:
    points = [as_mapping(point) for point in as_list(plan.get("points"))]
    entry = as_mapping(as_mapping(plan.get("engines")).get(engine))
    find = str(plan.get("find") or "")
    found = _count(entry.get("value")) if find in FINDINGS else None
    context = found if find == "context" else plan.get("context")
    concurrency = found if find == "concurrency" else plan.get("concurrency")
    entries = [point for point in points if point.get("engine") == engine] or [{**entry, "context": context}]
    rows = sorted((_read_row(one, _count(concurrency)) for one in entries), key=lambda row: row.context or 0)
    planned = [one for one in entries if one.get("version")]
    last = planned[-1] if planned else {}
    # Read as the plan of a run is, whatever was asked of the planner.
    sweep = {**plan, "points": [{**one, "engine": engine} for one in planned]}
    fix = as_mapping(last.get("fix"))
    version = str(last.get("version") or "")
    gpus = found if find == "gpus" else _count(plan.get("gpus"))
    hardware = f"{gpus}x {plan.get('gpu')}" if gpus else str(plan.get("gpu") or "")
    return Planned(
        key="",
        name="",
        model=str(plan.get("model") or "a model"),
        engine=f"{name_engine(engine)} {version}".strip(),
        hardware=hardware,
        facts=_list_facts(plan, entry, hardware),
        rows=tuple(rows),
        find=find if found is not None else "",
        found=found,
        plan=read_expectation(sweep, engine),
        command=_write_command(last.get("env"), last.get("flags")),
        added=_words(last.get("added")),
        changes=tuple(_read_changes(last.get("levers"))),
        remedy=(
            " ".join(_words(fix.get("changes"))),
            _write_command(fix.get("env"), fix.get("flags")),
        ),
        warnings=_words(last.get("warnings")),
        bases=_sum_bases(last.get("ledger")),
        gpu_basis=str(plan.get("gpu_memory_basis") or ""),
    )


def _read_row(entry: Mapping[str, Any], concurrency: int | None) -> PlannedRow:
    ttft = as_mapping(entry.get("ttft_s"))
    refusal = entry.get("refusal")
    return PlannedRow(
        context=_count(entry.get("context")),
        concurrency=concurrency,
        fits=entry.get("fits") is True,
        refused=entry.get("refused") is True or bool(refusal),
        reason=str(refusal or entry.get("reason") or ""),
        expected_s=as_number(ttft.get("expected")),
        floor_s=as_number(ttft.get("floor")),
        itl_s=as_number(as_mapping(entry.get("itl_s")).get("expected")),
        rate=as_number(entry.get("prefill_tokens_per_s")),
        capacity=_count(entry.get("capacity_tokens")),
        most=as_number(entry.get("max_concurrency")),
        kv_bytes=read_kv_bytes(entry),
    )


def _list_facts(
    plan: Mapping[str, Any], entry: Mapping[str, Any], hardware: str
) -> tuple[tuple[str, str], ...]:
    tp = entry.get("tp") or plan.get("tp")
    servers = _count(entry.get("servers")) or 1
    layout = f", TP {tp}" if tp else ""
    if servers > 1:
        layout += f", {servers} servers"
    notes = "; ".join(_words(plan.get("notes")))
    return (
        ("Model", str(plan.get("model") or "") + (f": {notes}" if notes else "")),
        ("Hardware", f"{hardware}{layout}"),
        ("Answers", f"{_count(plan.get('output_tokens')) or 0:,} tokens, within the context"),
        ("KV cache", str(as_mapping(plan.get("kv")).get("dtype") or plan.get("kv_dtype") or "")),
    )


def _read_changes(levers: Any) -> list[Change]:
    return [
        Change(
            str(lever.get("change") or ""),
            str(lever.get("costs") or ""),
            as_number(lever.get("bytes_freed")) or 0.0,
            _count(lever.get("capacity_tokens")),
            lever.get("fits") is True,
        )
        for lever in map(as_mapping, as_list(levers))
    ]


def _sum_bases(ledger: Any) -> dict[str, tuple[int, float]]:
    """Return lines and bytes of one GPU's ledger by basis."""
    sums: dict[str, tuple[int, float]] = {}
    for line in map(as_mapping, as_list(ledger)):
        if line.get("where") == "gpu":
            basis = str(line.get("basis") or "unknown")
            count, size = sums.get(basis, (0, 0.0))
            sums[basis] = (count + 1, size + (as_number(line.get("bytes")) or 0.0))
    return sums


def _write_command(environment: Any, flags: Any) -> str:
    variables = [f"{name}={shlex.quote(str(value))}" for name, value in as_mapping(environment).items()]
    return " ".join([*variables, *(shlex.quote(flag) for flag in _words(flags))])


def _words(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in as_list(values))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _name_apart(series: Sequence[Planned]) -> tuple[Planned, ...]:
    """Name every series by its engine, with what differs behind it: hardware, model, else its letter."""
    named = [replace(one, name=one.engine) for one in series]
    for attribute in ("hardware", "model"):
        values: dict[str, set[str]] = {}
        for one in named:
            values.setdefault(one.name, set()).add(getattr(one, attribute))
        named = [
            replace(one, name=f"{one.name}, {getattr(one, attribute)}") if len(values[one.name]) > 1 else one
            for one in named
        ]
    counted = Counter(one.name for one in named)
    return tuple(
        replace(one, name=f"{one.key.upper()}: {one.name}") if counted[one.name] > 1 else one for one in named
    )
