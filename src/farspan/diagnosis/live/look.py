"""Looking at a running server for some seconds: its metrics twice, its health, its processes between."""

from __future__ import annotations

import json
import time

from farspan.diagnosis.diagnose import Report
from farspan.diagnosis.live.live_view import LiveView
from farspan.diagnosis.live.processes import cpu_ticks, watched
from farspan.diagnosis.live.reach import Reach
from farspan.diagnosis.live.waits import findings_of, sentences_of
from farspan.engines.logs.records import Where
from farspan.engines.logs.server_state import Hints, ServerState
from farspan.engines.metric_source import Measure
from farspan.engines.metrics import find_engine, read_metrics

WATCHED_S = 5.0
_HEALTH_S = 25.0
_ASK_S = 10.0
_BUSY = 0.3
_STACKS = 12
_INFO = ("/server_info", "/get_server_info", "/version")


def look(reach: Reach, *, seconds: float = WATCHED_S) -> LiveView:
    """Watch a server for some seconds."""
    first = reach.get("/metrics", _ASK_S)
    began = time.monotonic()
    pids = reach.pids()
    ticks = cpu_ticks(pids)
    health = reach.get("/health", _HEALTH_S)
    settings, version = _settings(reach) if health.status or first.status else ({}, "")
    time.sleep(max(seconds - (time.monotonic() - began), 0.0))
    last = reach.get("/metrics", _ASK_S)
    passed = max(time.monotonic() - began, 0.001)
    processes = watched(ticks, cpu_ticks(pids), passed)
    busy = sorted((one for one in processes if one.cpu_share >= _BUSY), key=lambda one: -one.cpu_share)[
        :_STACKS
    ]
    stacks = {one.pid: frames for one in busy or processes[:_STACKS] if (frames := reach.stack(one.pid))}
    engine = find_engine(last.body) or find_engine(first.body)
    return LiveView(
        where=reach.where,
        engine=engine.name if engine is not None else "",
        version=version,
        health=health,
        before=_measures(first.body),
        after=_measures(last.body),
        seconds=passed,
        settings=settings,
        processes=processes,
        stacks=stacks,
        can_see_stacks=bool(stacks),
    )


def _measures(exposition: bytes) -> dict[Measure, float]:
    engine = find_engine(exposition)
    if engine is None:
        return {}
    try:
        return read_metrics(engine, exposition)
    except ValueError:
        return {}


def _settings(reach: Reach) -> tuple[dict[str, object], str]:
    """What the server tells of its arguments and version."""
    for path in _INFO:
        answer = reach.get(path, _ASK_S)
        if answer.status != 200:
            continue
        try:
            told = json.loads(answer.body)
        except (ValueError, RecursionError):
            continue
        if isinstance(told, dict):
            version = told.get("version")
            inner = told.get("server_args")
            return (inner if isinstance(inner, dict) else told), version if isinstance(version, str) else ""
    return {}, ""


def live_report(view: LiveView, hints: Hints | None = None) -> Report:
    """A view as a report, like that of a log."""
    state = ServerState(hints or Hints(), engine=view.engine, version=view.version)
    state.args.update(view.settings)
    if view.health.status == 200:
        state.ready = Where()
    return Report(
        engine=view.engine,
        version=view.version,
        timeline=(),
        capacity={measure.value: value for measure, value in view.after.items()},
        in_plain_terms=tuple(sentences_of(view)),
        findings=tuple(findings_of(view)),
        noise=(),
        starts=0,
        lines=0,
        server_state=state,
        seen_at=view.where,
    )
