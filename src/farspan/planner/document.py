"""The plan document: what `farspan plan --json` prints, as typed objects, written and read in one place.

There are four kinds: a plan of one context, a sweep over several, a search, and one search for several kinds of GPU.
`PlanDocument.from_json` takes any of them. `document_records` has the objects they are made of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias, cast

import orjson

from farspan.errors import InputError, UnsupportedError
from farspan.planner.document_records import (
    PLAN_KEYS,
    TIME_KEYS,
    EngineRecord,
    FoundRecord,
    KvRecord,
    RequestRecord,
)
from farspan.planner.json_records import RecordReader, write_record

# Version 1 is what farspan 0.1 wrote, without a number and without a promise of which keys there are: it is read as far
# as it goes. Of later versions every key is required.
FORMAT_VERSION = 2
_VERSION_KEY = "format_version"
# What a search can look for.
FINDINGS = ("context", "concurrency", "gpus")
_ADVICE = "write it with farspan plan ... --json"
_MODEL_KEYS = ("parameters", "kv_bytes_per_token")
_NUMBER_KEYS = ("gpus", "tp", "context", "concurrency")
_LEVER_KEYS = ("levers", "fix")
_FOUND_KEYS = ("value", "tp", "servers", "refusal", "why_not", "missed_ttft_s", "missed_itl_s")
_REFUSED_POINT_KEYS = ("context", "engine", "fits", "fits_with_defaults", "added", "reason", "refused")
_POINT_KEYS = (
    "context", "engine", "fits", "fits_with_defaults", "added", "version", "reason", "capacity_tokens",
    "max_concurrency", "available_kv_gib", "printed", *TIME_KEYS,
)  # fmt: skip


class PlanDocument(ABC):
    """What the kinds of document have in common."""

    __slots__ = ()
    kind: ClassVar[str] = "a plan document"

    @property
    @abstractmethod
    def parts(self) -> tuple[PlanPart, ...]:
        """The document itself, or where it is several in one, those."""

    @abstractmethod
    def _body(self) -> dict[str, Any]: ...

    @classmethod
    @abstractmethod
    def _read(cls, value: dict[str, Any], reader: RecordReader) -> PlanDocument: ...

    def to_json(self) -> dict[str, Any]:
        """Write the document as a JSON object."""
        return {_VERSION_KEY: FORMAT_VERSION, **self._body()}

    @classmethod
    def from_json(cls, value: object, what: str = "the plan") -> Self:
        """Read what `to_json` wrote, of this kind or, called on `PlanDocument`, of any.

        Args:
            value: The JSON object.
            what: What it is, for messages.

        Raises:
            UnsupportedError: A newer farspan wrote it.
            InputError: It is no plan, of another kind, or a key is missing or of another type.
        """
        if not isinstance(value, dict):
            raise InputError(f"{what} is no plan: it is not a JSON object", _ADVICE)
        version = value.get(_VERSION_KEY, 1)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise InputError(f"{what} is no plan: its {_VERSION_KEY} is {version!r}", _ADVICE)
        if version > FORMAT_VERSION:
            raise UnsupportedError(
                f"{what} has format version {version}, and this farspan reads up to {FORMAT_VERSION}",
                "read it with the farspan that wrote it, or plan again with this one",
            )
        kind = _kind_of(value)
        if not issubclass(kind, cls):
            raise InputError(f"{what} is {kind.kind}, not {cls.kind}", _ADVICE)
        document = kind._read(value, RecordReader(what, _ADVICE, strict=version > 1))
        if not any(part.engines for part in document.parts):
            raise InputError(f"{what} is no plan: it names no engine", _ADVICE)
        return cast(Self, document)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `farspan plan --json` wrote.

        Raises:
            InputError: It cannot be read, or as `from_json`.
        """
        try:
            value = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise InputError(f"{path} cannot be read as a plan ({error})", _ADVICE) from error
        return cls.from_json(value, str(path))


@dataclass(frozen=True, slots=True)
class SinglePlan(PlanDocument):
    """One context on one engine or several.

    Args:
        request: What was asked.
        kv: What one request keeps; None where a document of version 1 does not say.
        plans: By engine.
    """

    kind: ClassVar[str] = "a plan of one context"
    request: RequestRecord
    kv: KvRecord | None
    plans: Mapping[str, EngineRecord]

    @property
    def parts(self) -> tuple[PlanPart, ...]:
        """The document itself."""
        return (self,)

    @property
    def engines(self) -> tuple[str, ...]:
        """Every engine planned, those that refuse included."""
        return tuple(self.plans)

    def answers_of(self, engine: str) -> tuple[EngineRecord, ...]:
        """Return the plan of one engine."""
        return (self.plans[engine],) if engine in self.plans else ()

    def _body(self) -> dict[str, Any]:
        plans = {engine: self._write_plan(plan) for engine, plan in self.plans.items()}
        # A single engine's keys stand at the top too, where the request has none of that name: `notes` are its own.
        only = next(iter(plans.values())) if len(plans) == 1 else {}
        request = write_record(self.request)
        top = {key: value for key, value in only.items() if key not in request}
        body = {**request, "kv": write_record(self.kv) if self.kv else None, **top}
        for key in ("fits", "fits_with_defaults"):
            body[key] = any(plan[key] for plan in plans.values())
        return {**body, "engines": plans}

    @staticmethod
    def _write_plan(plan: EngineRecord) -> dict[str, Any]:
        keys = ("refused", *PLAN_KEYS, *_LEVER_KEYS) if plan.refused else (*PLAN_KEYS, *_LEVER_KEYS)
        return write_record(plan, plan.keys(keys))

    @classmethod
    def _read(cls, value: dict[str, Any], reader: RecordReader) -> SinglePlan:
        request = _read_request(value, reader)
        kv = reader.read(KvRecord, value["kv"], "kv") if reader.has(value, "kv") else None
        plans = {
            engine: reader.read(
                EngineRecord,
                plan,
                f"engines.{engine}",
                required=(*PLAN_KEYS, *_LEVER_KEYS),
                known={"engine": engine, "context": request.context},
            )
            for engine, plan in _engine_entries(value).items()
        }
        return cls(request, kv, plans)


@dataclass(frozen=True, slots=True)
class SweepPlan(PlanDocument):
    """Several contexts, a point for each on each engine."""

    kind: ClassVar[str] = "a plan of several contexts"
    request: RequestRecord
    points: tuple[EngineRecord, ...]

    @property
    def parts(self) -> tuple[PlanPart, ...]:
        """The document itself."""
        return (self,)

    @property
    def engines(self) -> tuple[str, ...]:
        """Every engine planned, those that refuse included."""
        return tuple(dict.fromkeys(point.engine for point in self.points))

    def answers_of(self, engine: str) -> tuple[EngineRecord, ...]:
        """Return the points of one engine, the shortest context first."""
        mine = (point for point in self.points if point.engine == engine)
        return tuple(sorted(mine, key=lambda point: point.context or 0))

    def _body(self) -> dict[str, Any]:
        request = write_record(self.request)
        del request["context"]
        points = [
            write_record(point, point.keys(_REFUSED_POINT_KEYS if point.refused else _POINT_KEYS))
            for point in self.points
        ]
        return {**request, "points": points}

    @classmethod
    def _read(cls, value: dict[str, Any], reader: RecordReader) -> SweepPlan:
        points = []
        for index, point in enumerate(value["points"]):
            refused = isinstance(point, dict) and point.get("refused") is True
            required = _REFUSED_POINT_KEYS if refused else _POINT_KEYS
            points.append(reader.read(EngineRecord, point, f"points[{index}]", required=required))
        named = tuple(point for point in points if point.engine)
        return cls(_read_request(value, reader, without=("context",)), named)


@dataclass(frozen=True, slots=True)
class SearchPlan(PlanDocument):
    """The longest context, the most requests, or the fewest GPUs.

    Args:
        request: What was asked; what is looked for is None.
        find: `context`, `concurrency` or `gpus`.
        found: By engine.
    """

    kind: ClassVar[str] = "a search"
    request: RequestRecord
    find: str
    found: Mapping[str, FoundRecord]

    @property
    def parts(self) -> tuple[PlanPart, ...]:
        """The document itself."""
        return (self,)

    @property
    def engines(self) -> tuple[str, ...]:
        """Every engine asked."""
        return tuple(self.found)

    def answers_of(self, engine: str) -> tuple[EngineRecord, ...]:
        """Return the plan that gives the answer; none when nothing fits."""
        found = self.found.get(engine)
        return (found.plan,) if found and found.plan else ()

    def _body(self) -> dict[str, Any]:
        request = write_record(self.request)
        for key in searched_keys(self.find):
            del request[key]
        engines = {}
        for engine, found in self.found.items():
            plan = found.plan.to_json() if found.plan else {}
            engines[engine] = {**write_record(found, _FOUND_KEYS), **plan}
        return {**request, "find": self.find, "engines": engines}

    @classmethod
    def _read(cls, value: dict[str, Any], reader: RecordReader) -> SearchPlan:
        find = value["find"]
        request = _read_request(value, reader, without=searched_keys(find))
        found = {}
        for engine, entry in _engine_entries(value).items():
            where = f"engines.{engine}"
            plan, answer = None, reader.read(FoundRecord, entry, where, known={"plan": None})
            if isinstance(entry, dict) and "version" in entry:
                context = answer.value if find == "context" else request.context
                plan = reader.read(
                    EngineRecord,
                    entry,
                    where,
                    required=PLAN_KEYS,
                    known={"engine": engine, "context": context},
                )
            found[engine] = replace(answer, plan=plan)
        return cls(request, find, found)


@dataclass(frozen=True, slots=True)
class SearchByGpu(PlanDocument):
    """One search for several kinds of GPU, by kind. Its answers are those of its searches."""

    kind: ClassVar[str] = "a search for several kinds of GPU"
    find: str
    by_gpu: Mapping[str, SearchPlan]

    @property
    def parts(self) -> tuple[PlanPart, ...]:
        """The searches."""
        return tuple(self.by_gpu.values())

    def _body(self) -> dict[str, Any]:
        return {"find": self.find, "by_gpu": {gpu: search._body() for gpu, search in self.by_gpu.items()}}

    @classmethod
    def _read(cls, value: dict[str, Any], reader: RecordReader) -> SearchByGpu:
        searches = {}
        for gpu, search in value["by_gpu"].items():
            if isinstance(search, dict) and _kind_of(search) is SearchPlan:
                searches[gpu] = SearchPlan._read(search, reader)
        return cls(str(value.get("find") or ""), searches)


PlanPart: TypeAlias = SinglePlan | SweepPlan | SearchPlan


def _kind_of(value: Mapping[str, Any]) -> type[PlanDocument]:
    if isinstance(value.get("by_gpu"), dict):
        return SearchByGpu
    if isinstance(value.get("points"), list):
        return SweepPlan
    return SearchPlan if value.get("find") in FINDINGS else SinglePlan


def searched_keys(find: str) -> tuple[str, ...]:
    """What of the request a search looks for."""
    return ("gpus", "tp") if find == "gpus" else (find,)


def _read_request(
    value: dict[str, Any], reader: RecordReader, *, without: tuple[str, ...] = ()
) -> RequestRecord:
    required = (*_MODEL_KEYS, *(key for key in _NUMBER_KEYS if key not in without))
    return reader.read(RequestRecord, value, required=required, known=dict.fromkeys(without))


def _engine_entries(value: Mapping[str, Any]) -> Mapping[str, Any]:
    entries = value.get("engines")
    return entries if isinstance(entries, dict) else {}
