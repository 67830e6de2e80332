"""A server's life: started and watched until it answers, looked up, its log found, ended."""

from __future__ import annotations

import asyncio
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from farspan.diagnosis.examine import examine
from farspan.engines.logs.findings import Severity
from farspan.engines.logs.server_state import Hints
from farspan.errors import LaunchError, MissingPackageError
from farspan.launch.docker import Docker
from farspan.launch.kubernetes import Cluster, is_ready
from farspan.launch.local import check_port
from farspan.launch.runtime import IfExists, Running, Runtime, handle_existing
from farspan.launch.runtimes.process import end_process, is_alive
from farspan.launch.server_records import ServerRecord, StateFolder
from farspan.launch.start_watch import StartError, StartReport, StartupWatch, await_start
from farspan.measurement.http.ready import find_missing

_ANSWER_S = 3.0
_PIECE_BYTES = 2**20


class ServeWatcher:
    """Its methods are called as a server starts. Subclasses show what happens; this one ignores it."""

    def step(self, line: str) -> None:
        """Something was done, in the words of `line`."""

    def progress(self, seconds: float, watch: StartupWatch) -> None:
        """The start has gone on for so many seconds; `watch` knows its phases."""

    def ready(self, report: StartReport, record: ServerRecord) -> None:
        """The server answers."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers.

    Args:
        record: What farspan keeps of it.
        report: How its start went.
    """

    record: ServerRecord
    report: StartReport

    @property
    def url(self) -> str:
        """Where it answers; empty in a cluster."""
        return self.record.url

    def to_json(self) -> dict[str, Any]:
        """The record, the phases of the start, and what the engine got beside the plan."""
        return {
            "server": asdict(self.record),
            "ready_s": self.report.ready_s,
            "phases": [asdict(phase) for phase in self.report.phases],
            "compared": [asdict(row) for row in self.report.compared],
        }


def describe(runtime: Runtime) -> dict[str, Any]:
    """What would run, for programs: runtime, engine, argv or manifest, names of environment variables, plan."""
    from farspan.planner.build_document import build_engine

    launch = runtime.launch
    command = runtime.describe()
    return {
        "runtime": launch.runtime,
        "engine": launch.engine.name,
        "version": launch.version,
        "name": launch.name,
        "model": launch.files.name,
        "context": launch.context,
        "url": launch.url if launch.runtime != "kubernetes" else "",
        **command,
        "env_names": sorted(
            {*launch.command.env, *launch.files.env, *launch.secrets, *launch.command.secrets}
        ),
        "ready_limit_s": round(launch.expected.limit_s),
        "planned_start_s": {name: round(seconds, 1) for name, seconds in launch.expected.phases.items()},
        "planned_start_basis": launch.expected.basis,
        "warnings": list(launch.warnings),
        "plan": build_engine(launch.context, launch.plan).to_json() if launch.plan else None,
    }


async def start_server(
    runtime: Runtime,
    *,
    state: StateFolder | None = None,
    if_exists: IfExists = IfExists.REFUSE,
    detach: bool = False,
    ready_limit_s: float | None = None,
    watcher: ServeWatcher | None = None,
    environment: Mapping[str, str] | None = None,
) -> RunningServer:
    """Start a server, wait until it answers one token, and stay with it until it ends; or let it go.

    A start that fails, or is interrupted, leaves nothing behind. So does the end of this program, however it may
    come, for a local server that was not let go.

    Args:
        runtime: What to start.
        state: Where records and logs go.
        if_exists: What to do about an older one of that name.
        detach: Return once it answers and leave it running.
        ready_limit_s: Longest start in seconds; None for three times the planned one and ten minutes.
        watcher: Its methods are called as the start goes on.
        environment: Where the values of secrets are.

    Raises:
        StartError: It did not start, or ended after it had been ready; with the doctor's findings.
        LaunchError: docker, kubectl or a process failed.
        InputError: There is one of that name.
    """
    state, watcher = state or StateFolder(), watcher or ServeWatcher()
    environment = os.environ if environment is None else environment
    launch = runtime.launch
    log = state.log_path(launch.name)
    found = handle_existing(runtime, state, if_exists)
    secrets = {inside: environment[outside] for inside, outside in launch.secrets.items()}
    if found:
        watcher.step(f"{launch.name} is there already: using it")
        running = runtime.attach(log, state)
    else:
        if launch.runtime != "kubernetes":
            check_port(launch.host, launch.port)
        log.unlink(missing_ok=True)
        running = runtime.start(log, secrets)
    stays, is_let_go = found, False
    try:
        record = _record(runtime, running)
        state.save(record)
        key = next((secrets[name] for name in launch.command.secrets if name in secrets), None)

        async def check() -> str:
            if not launch.nodes.is_head:
                return ""  # the head answers; this machine only works for it
            return (
                await find_missing(running.url, api_key=key) if running.url else "the port is not there yet"
            )

        hints = Hints(launch.files.name, launch.gpu, launch.version)
        report = await await_start(
            running,
            check,
            launch.expected,
            launch.plan,
            hints=hints,
            limit_s=ready_limit_s,
            on_change=watcher.progress,
        )
        record = replace(record, ready_s=report.ready_s)
        state.save(record)
        watcher.ready(report, record)
        if detach:
            running.let_go()
            stays = is_let_go = True
        else:
            await _wait_for_end(running, hints)
    finally:
        if not stays:
            watcher.step(f"ending {launch.name}")
            running.end()
            state.remove(launch.name)
        elif not is_let_go:
            running.let_go()
    return RunningServer(record, report)


async def _wait_for_end(running: Running, hints: Hints) -> None:
    """Wait until the server ends, and raise why it did."""
    while running.exit_status is None:
        await asyncio.sleep(0.5)
    report = examine(_read_pieces(running.log), hints)
    raise StartError(
        f"the server ended with status {running.exit_status} after it had been ready",
        f"read its log, {running.log}",
        running.tail(),
        tuple(found for found in report.findings if found.severity is not Severity.INFO),
    )


def _read_pieces(log: Path) -> Iterator[bytes]:
    with log.open("rb") as file:
        while data := file.read(_PIECE_BYTES):
            yield data


def _record(runtime: Runtime, running: Running) -> ServerRecord:
    launch = runtime.launch
    plan = launch.plan
    figures: dict[str, object] = {}
    if plan is not None:
        figures = {
            "capacity_tokens": plan.capacity_tokens,
            "max_concurrency": round(plan.max_concurrency, 4),
            "ttft_s": plan.time.ttft_expected_s if plan.time else None,
        }
    fields: dict[str, Any] = {
        "name": launch.name,
        "runtime": launch.runtime,
        "engine": launch.engine.name,
        "version": launch.version,
        "model": launch.files.name,
        "url": "" if launch.runtime == "kubernetes" or not launch.nodes.is_head else launch.url,
        "context": launch.context,
        "started": time.time(),
        "log": str(running.log),
        "digest": runtime.fingerprint(),
        "key_variable": next((launch.secrets[n] for n in launch.command.secrets if n in launch.secrets), ""),
        "plan": figures,
        **runtime.record_fields(running),
    }
    return ServerRecord(**fields)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server now.

    Args:
        record: What farspan keeps of it.
        state: "ready", "starting", "not answering", "gone" or "unknown".
        why: More words, where there are any.
    """

    record: ServerRecord
    state: str
    why: str = ""


def find_status(record: ServerRecord) -> ServerStatus:
    """Find out how a server is: whether what was started is still there, and whether it answers."""
    try:
        gone = _is_gone(record)
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
    why = _check_health(record.url)
    if why:
        return ServerStatus(record, "starting" if record.ready_s is None else "not answering", why)
    return ServerStatus(record, "ready" if record.ready_s is not None else "starting")


def _is_gone(record: ServerRecord) -> str:
    """Why a server is not there any more; empty while it is."""
    if record.runtime == "local":
        return "" if is_alive(record) else "its process has ended"
    if record.runtime == "docker":
        status = Docker().exit_status(record.container)
        return "" if status is None else f"its container ended with status {status}, or was removed"
    pods = _cluster(record).pods(record.name)
    return "" if pods else "it has no pods"


def _check_health(url: str) -> str:
    """What is wrong with a server's health; empty when it answers."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=_ANSWER_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"/health answers {error.code}"
    except OSError as error:
        return " ".join(str(getattr(error, "reason", error)).split())


def stop_server(
    record: ServerRecord, state: StateFolder, *, on_step: Callable[[str], None] | None = None
) -> None:
    """End a server and forget it; its log stays. One that is gone is only forgotten.

    Raises:
        LaunchError: It does not end.
    """
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
    if record.runtime == "docker":
        return Docker().log_argv(record.container, follow=follow, lines=lines)
    if record.runtime == "kubernetes":
        return _cluster(record).log_argv(record.name, follow=follow, lines=lines)
    return ()


def _cluster(record: ServerRecord) -> Cluster:
    return Cluster(record.cluster.get("context", ""), record.cluster.get("namespace", "default"))
