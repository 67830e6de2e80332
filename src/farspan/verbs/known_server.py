"""A server that farspan has started, found again by its name or address: what its record adds to a measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from yarl import URL

from farspan.errors import FarspanError, InputError, LaunchError, MissingPackageError, UnsupportedError
from farspan.launch.server_records import ServerRecord, StateFolder
from farspan.launch.started_servers import find_gone, find_key, log_argv
from farspan.measurement.analysis.plan_times import list_planned
from farspan.measurement.http.target import normalise_url
from farspan.measurement.options import BenchOptions
from farspan.planner.document import PlanDocument
from farspan.verbs.logs import ServerLog

LOG_FILE = "server.log"
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


def find_known_server(given: str, state: StateFolder | None = None) -> ServerRecord | None:
    """Find the server that farspan started under this name, or that answers at this address.

    Returns:
        None for the address of a server that farspan did not start.

    Raises:
        NotFoundError: It is a name, and there is no such server.
        InputError: The server of that name did not start, or it is no address.
        UnsupportedError: Only its cluster reaches it.
    """
    state = state or StateFolder()
    records = state.records()
    for record in records:
        if record.name == given:
            _check_reachable(record)
            return record
    try:
        url = URL(normalise_url(given))
    except InputError:
        if any(mark in given for mark in ":/."):
            raise
        return state.find(given)
    for record in reversed(records):
        if record.url and not record.failed and _same_server(URL(record.url), url) and not _is_gone(record):
            return record
    return None


def _check_reachable(record: ServerRecord) -> None:
    if record.failed:
        raise InputError(
            f"{record.name} did not start: {record.failed}", f"farspan logs {record.name} shows its log"
        )
    if not record.url:
        raise UnsupportedError(
            f"{record.name} is reached from inside its cluster alone",
            f"run: kubectl port-forward service/{record.name} 8000:8000, and pass --url http://localhost:8000",
        )


def _same_server(one: URL, other: URL) -> bool:
    if one.port != other.port or one.path.rstrip("/") != other.path.rstrip("/"):
        return False
    return one.host == other.host or {one.host, other.host} <= _THIS_MACHINE


def _is_gone(record: ServerRecord) -> bool:
    try:
        return bool(find_gone(record))
    except (LaunchError, MissingPackageError):
        return True


def add_what_is_known(
    options: BenchOptions, record: ServerRecord, plan_file: Callable[[], Path]
) -> BenchOptions:
    """Add a server's tokenizer, key, flags and plan to what is to be measured; what is given stays as it is.

    Args:
        options: What is to be measured.
        record: The server.
        plan_file: Where to write the plan for the contexts measured; called when there is one.
    """
    plan = options.plan
    if plan is None and (document := plan_contexts(record, options.contexts)):
        plan = plan_file()
        plan.parent.mkdir(parents=True, exist_ok=True)
        plan.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return replace(
        options,
        tokenizer=options.tokenizer or record.tokenizer or None,
        api_key=options.api_key or find_key(record) or None,
        plan=plan,
        launched=record.describe_launch(),
    )


def plan_contexts(record: ServerRecord, contexts: tuple[int, ...]) -> Mapping[str, Any]:
    """Plan the contexts measured as the server was planned; empty where nothing was planned, or no time."""
    if record.plan_arguments and contexts:
        from farspan.verbs.plan import plan

        with suppress(FarspanError):
            answer = plan(**dict(record.plan_arguments), contexts=sorted(set(contexts)))
            if list_planned(answer.document):
                return answer.to_json()
    if record.plan_document and list_planned(PlanDocument.from_json(dict(record.plan_document))):
        return record.plan_document
    return {}


def keep_log(record: ServerRecord, folder: Path) -> str:
    """Copy a server's log into a run folder as `server.log`.

    Returns:
        Why it could not be copied; empty when it was.
    """
    log = ServerLog(record, log_argv(record, follow=False))
    try:
        draft = folder / f"{LOG_FILE}.tmp"
        with draft.open("wb") as file:
            file.writelines(log.pieces())
        draft.replace(folder / LOG_FILE)
    except (FarspanError, OSError) as error:
        return f"the log of {record.name} could not be copied ({error})"
    return ""
