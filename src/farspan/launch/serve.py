"""A server's start: watched until it answers, held or let go, recorded."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from farspan.diagnosis.examine import examine
from farspan.engines.logs.findings import Severity
from farspan.engines.logs.server_state import Hints
from farspan.launch.launch_spec import Launch
from farspan.launch.local import check_port
from farspan.launch.runtime import IfExists, Running, Runtime, handle_existing
from farspan.launch.server_records import ServerRecord, StateFolder
from farspan.launch.start_watch import StartError, StartReport, StartupWatch, await_start
from farspan.measurement.http.ready import find_missing

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
        "notes": list(launch.notes),
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

    A start that is interrupted leaves nothing behind; one that fails leaves its record and its log. The end of this
    program, however it may come, ends a local server that was not let go.

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
    async with serving(
        runtime,
        state=state,
        if_exists=if_exists,
        ready_limit_s=ready_limit_s,
        watcher=watcher,
        environment=environment,
    ) as served:
        if detach:
            served.let_go()
        else:
            await served.wait_for_end()
        return RunningServer(served.record, served.report)


class ServedModel:
    """A server that answers, held by this program: it ends with the `serving` block, unless it is let go.

    Args:
        running: The server.
        record: What farspan keeps of it.
        report: How its start went.
    """

    def __init__(self, running: Running, record: ServerRecord, report: StartReport, hints: Hints) -> None:
        self.record = record
        self.report = report
        self.is_let_go = False
        self._running = running
        self._hints = hints

    @property
    def url(self) -> str:
        """Where this program reaches it, in a cluster too."""
        return self._running.url

    @property
    def log(self) -> Path:
        """Its log on this machine, as far as it has come."""
        return self._running.log

    def let_go(self) -> None:
        """Leave it running when the block ends."""
        self._running.let_go()
        self.is_let_go = True

    async def wait_for_end(self) -> None:
        """Wait until the server ends, and raise why it did."""
        await _wait_for_end(self._running, self._hints)


@asynccontextmanager
async def serving(
    runtime: Runtime,
    *,
    state: StateFolder | None = None,
    if_exists: IfExists = IfExists.REFUSE,
    ready_limit_s: float | None = None,
    watcher: ServeWatcher | None = None,
    environment: Mapping[str, str] | None = None,
    keep_found: bool = True,
) -> AsyncIterator[ServedModel]:
    """Start a server, wait until it answers one token, and end it with the block.

    Args:
        runtime, state, if_exists, ready_limit_s, watcher, environment: See `start_server`.
        keep_found: Whether a server that was there already stays when the block ends.

    Raises:
        StartError, LaunchError, InputError: See `start_server`.
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
    stays = found and keep_found
    served: ServedModel | None = None
    failed: ServerRecord | None = None
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
        try:
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
            served = ServedModel(running, record, report, hints)
            yield served
        except StartError as error:
            failed = replace(record, failed=error.message)
            raise
    finally:
        if served is None or not served.is_let_go:
            if stays:
                running.let_go()
            else:
                watcher.step(f"ending {launch.name}")
                running.end()
                if failed is None:
                    state.remove(launch.name)
                else:
                    state.save(failed)


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
        "flags": describe_flags(launch),
        "tokenizer": launch.tokenizer,
        "plan_document": _document(launch),
        "plan_arguments": launch.plan_arguments,
        **runtime.record_fields(running),
    }
    return ServerRecord(**fields)


def describe_flags(launch: Launch) -> str:
    """Environment and arguments of the engine, without the model and without values of secrets."""
    env = [f"{name}={shlex.quote(value)}" for name, value in launch.command.env.items()]
    return " ".join([*env, shlex.join(launch.command.arguments)])


def _document(launch: Launch) -> dict[str, Any]:
    from farspan.planner.build_document import build_plan

    if launch.plan is None or launch.request is None:
        return {}
    return build_plan(launch.request, [launch.plan], {}, {}).to_json()
