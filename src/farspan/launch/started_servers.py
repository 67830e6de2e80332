"""The servers there are: how each is, its log, its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from farspan.diagnosis.live.reach import UrlReach
from farspan.engines.metric_source import Measure
from farspan.engines.metrics import find_engine, read_metrics
from farspan.errors import LaunchError, MissingPackageError
from farspan.launch.docker import Docker
from farspan.launch.kubernetes import Cluster, is_ready
from farspan.launch.runtimes.process import end_process, is_alive
from farspan.launch.server_records import ServerRecord, StateFolder

_ANSWER_S = 3.0


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server now.

    Args:
        record: What farspan keeps of it.
        state: "ready", "starting", "not answering", "failed", "gone" or "unknown".
        why: More words, where there are any.
    """

    record: ServerRecord
    state: str
    why: str = ""


def find_status(record: ServerRecord) -> ServerStatus:
    """Find out how a server is: whether what was started is still there, and whether it answers."""
    if record.failed:
        return ServerStatus(record, "failed", record.failed)
    try:
        gone = find_gone(record)
        if not gone and record.runtime == "kubernetes":
            ready = any(is_ready(pod) for pod in _cluster(record).pods(record.name))
            waiting = "starting" if record.ready_s is None else "not answering"
            return ServerStatus(record, "ready" if ready else waiting, "as its readiness probe says")
    except (LaunchError, MissingPackageError) as error:
        return ServerStatus(record, "unknown", error.message)
    if gone:
        return ServerStatus(record, "gone", gone)
    if not record.url:
        return ServerStatus(record, "ready", "works for machine 0, which answers")
    reach = UrlReach(record.url, key=find_key(record))
    why = _check_health(reach)
    if why:
        return ServerStatus(record, "starting" if record.ready_s is None else "not answering", why)
    if record.ready_s is None:
        return ServerStatus(record, "starting")
    return ServerStatus(record, "ready", _describe_load(reach))


def find_key(record: ServerRecord) -> str:
    """The server's API key, from the variable that its record names; empty for none."""
    return os.environ.get(record.key_variable, "") if record.key_variable else ""


def find_gone(record: ServerRecord) -> str:
    """Why a server is not there any more; empty while it is."""
    if record.runtime == "local":
        return "" if is_alive(record) else "its process has ended"
    if record.runtime == "docker":
        status = Docker().exit_status(record.container)
        return "" if status is None else f"its container ended with status {status}, or was removed"
    pods = _cluster(record).pods(record.name)
    return "" if pods else "it has no pods"


def _check_health(reach: UrlReach) -> str:
    """What is wrong with a server's health; empty when it answers."""
    reply = reach.get("/health", _ANSWER_S)
    if reply.status == 200:
        return ""
    return f"/health answers {reply.status}" if reply.status else " ".join(reply.why.split())


def _describe_load(reach: UrlReach) -> str:
    """What a server works on, by its own /metrics; empty where it tells nothing."""
    exposition = reach.get("/metrics", _ANSWER_S).body
    try:
        engine = find_engine(exposition)
        measured = read_metrics(engine, exposition) if engine is not None else {}
    except ValueError:
        return ""
    running, waiting = measured.get(Measure.RUNNING), measured.get(Measure.WAITING)
    if running is None:
        return ""
    if not running and not waiting:
        return "idle"
    queued = f", {waiting:.0f} waiting" if waiting else ""
    return f"busy: {running:.0f} running{queued}"


def stop_server(
    record: ServerRecord, state: StateFolder, *, on_step: Callable[[str], None] | None = None
) -> None:
    """End a server and forget it; its log stays. One that is gone, or failed, is only forgotten.

    Raises:
        LaunchError: It does not end.
    """
    if record.failed:
        state.remove(record.name)  # it was ended when it failed
        return
    if on_step is not None:
        on_step(f"ending {record.name}")
    if record.runtime == "local":
        end_process(record)
    elif record.runtime == "docker":
        Docker().stop(record.container)
    else:
        _cluster(record).delete(record.name, several_nodes=record.cluster.get("several_nodes") == "True")
    state.remove(record.name)


def log_argv(record: ServerRecord, *, follow: bool, lines: int | None = None) -> tuple[str, ...]:
    """The command that shows a server's log; empty when the log is a file of this machine."""
    if record.failed:
        return ()  # what was started is gone; its log was kept
    if record.runtime == "docker":
        return Docker().log_argv(record.container, follow=follow, lines=lines)
    if record.runtime == "kubernetes":
        return _cluster(record).log_argv(record.name, follow=follow, lines=lines)
    return ()


def _cluster(record: ServerRecord) -> Cluster:
    return Cluster(record.cluster.get("context", ""), record.cluster.get("namespace", "default"))
