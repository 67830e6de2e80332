"""The measures of a request, in one table: their names, units and directions, and how each is read from a result.

The summary, `farspan compare`, `--fail-if`, exports and the tables on the terminal all read this table, so that a
name means one thing everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from farspan.measurement.runs.job import LoadPhase
from farspan.measurement.runs.result import Result
from farspan.sizes import format_seconds, format_tokens


class MeasureUnit(StrEnum):
    """What a measure counts in."""

    SECONDS = "s"
    TOKENS_PER_SECOND = "tokens/s"


@dataclass(frozen=True, slots=True)
class RequestMeasure:
    """One measure of a request.

    Args:
        name: In conditions and comparisons, such as `ttft`.
        key: In JSON, with its unit, such as `ttft_s`.
        unit: What it counts in.
        lower_is_better: Whether a smaller value is the better one.
        read: Returns a request's values: none where it is not known, one, or for `itl` every gap.
        vllm_name: In `vllm bench serve`; empty where that has no such measure.
        compared: Whether `farspan compare` has a row for it: measures of one value a request.
    """

    name: str
    key: str
    unit: MeasureUnit
    lower_is_better: bool
    read: Callable[[Result], Sequence[float]]
    vllm_name: str = ""
    compared: bool = True

    @property
    def title(self) -> str:
        """The name as a person reads it."""
        return (
            self.name.upper()
            if self.unit is MeasureUnit.SECONDS and len(self.name) <= 4
            else self.name.replace("_", " ")
        )

    def value(self, result: Result) -> float | None:
        """Return the request's value; None where it is not known."""
        values = self.read(result)
        return values[0] if values else None

    def format(self, value: float | None, *, missing: str = "") -> str:
        """Write a value for a person, with its unit; `missing` where there is none."""
        if value is None:
            return missing
        if self.unit is MeasureUnit.SECONDS:
            return format_seconds(value)
        return f"{value:,.1f} tokens/s"


def _seconds(
    name: str, field: str, vllm_name: str = "", *, compared: bool = True
) -> tuple[str, RequestMeasure]:
    return name, RequestMeasure(
        name, field, MeasureUnit.SECONDS, True, _field_reader(field), vllm_name, compared
    )


def _rate(name: str, field: str) -> tuple[str, RequestMeasure]:
    return name, RequestMeasure(name, field, MeasureUnit.TOKENS_PER_SECOND, False, _field_reader(field))


def _field_reader(field: str) -> Callable[[Result], Sequence[float]]:
    def read(result: Result) -> Sequence[float]:
        value = getattr(result, field)
        return () if value is None else (value,)

    return read


MEASURES: dict[str, RequestMeasure] = dict(
    (
        _seconds("ttft", "ttft_s", "ttft"),
        _seconds("tpot", "tpot_s", "tpot"),
        (
            "itl",
            RequestMeasure(
                "itl", "itl_s", MeasureUnit.SECONDS, True, lambda result: result.gaps_s, "itl", compared=False
            ),
        ),
        _seconds("e2e", "e2e_s", "e2el"),
        _rate("prefill_rate", "prefill_tokens_per_s"),
        _rate("decode_rate", "decode_tokens_per_s"),
        _seconds("queue", "queue_s"),
        _seconds("bytes_sent", "bytes_sent_s", compared=False),
        _seconds("engine_ttft", "engine_ttft_s", compared=False),
        _seconds("stream_late", "stream_late_s", compared=False),
        _seconds("first_token_held", "first_token_held_s", compared=False),
    )
)
COMPARED_MEASURES = tuple(measure for measure in MEASURES.values() if measure.compared)


def find_measure(name: str) -> RequestMeasure | None:
    """Return a measure by its name, or by vLLM's; None when there is none of that name."""
    named = (m for m in MEASURES.values() if name and name == m.vllm_name)
    return MEASURES.get(name) or next(named, None)


class PointKey(NamedTuple):
    """What the requests of a point have in common.

    Args:
        context: Prompt tokens asked for.
        depth: Where the needle was; None for all depths together.
        concurrency: How many requests it was sent among, in a run that goes through several; else None.
        warm: Whether part of the prompt is cached by design; None where no prefix is shared.
    """

    context: int
    depth: float | None
    concurrency: int | None = None
    warm: bool | None = None

    def __str__(self) -> str:
        depth = "" if self.depth is None else f", depth {self.depth:g}"
        among = "" if self.concurrency is None else f", concurrency {self.concurrency}"
        cached = "" if self.warm is None else ", warm" if self.warm else ", cold"
        return f"{format_tokens(self.context)}{depth}{among}{cached}"


def group_points(results: Sequence[Result], *, all_depths: bool = False) -> dict[PointKey, list[Result]]:
    """Group the measured requests by context, depth, concurrency and whether they are warm by design, in ascending
    order.

    Args:
        results: Of any phase; those that warm up and cool down stay out.
        all_depths: Take all depths of a context together.
    """
    measured = [result for result in results if result.phase is LoadPhase.MEASURED]
    measured.sort(
        key=lambda r: (r.context, r.depth, r.concurrency or 0, bool(r.expected_cached_tokens), r.repeat)
    )
    groups: dict[PointKey, list[Result]] = {}
    for result in measured:
        key = PointKey(
            result.context,
            None if all_depths else result.depth,
            result.concurrency,
            None if result.expected_cached_tokens is None else result.expected_cached_tokens > 0,
        )
        groups.setdefault(key, []).append(result)
    return groups


def choose_timed(results: Sequence[Result]) -> list[Result]:
    """Return the measured results whose times can be trusted; when there is none, all that have times."""
    measured = [result for result in results if result.phase is LoadPhase.MEASURED]
    trusted = [result for result in measured if result.is_trusted]
    return trusted or [result for result in measured if result.ttft_s is not None]


def list_values(measure: RequestMeasure, results: Sequence[Result]) -> list[float]:
    """Return a measure's values over results: one a request, of `itl` every gap."""
    return [value for result in results for value in measure.read(result)]
