"""Say what happened to a server, why, and what to change: from its log, or by looking at it as it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from farspan.diagnosis.bundle import LogExcerpt, bundle_lines
from farspan.diagnosis.diagnose import Report
from farspan.diagnosis.examine import examine
from farspan.diagnosis.live.look import WATCHED_S, live_report, look
from farspan.diagnosis.live.reach import reach_of
from farspan.diagnosis.sources import is_pasted, read_source
from farspan.engines.logs.findings import Severity
from farspan.engines.logs.server_state import Hints
from farspan.errors import InputError
from farspan.hardware.node_spelling import parse_node


def doctor(
    source: str | Path | Iterable[bytes] = "",
    *,
    url: str = "",
    live: bool = False,
    seconds: float = WATCHED_S,
    port: int = 0,
    api_key: str = "",
    model: str = "",
    gpus: str = "",
    engine_version: str = "",
    container: str = "",
    previous: bool = False,
    bundle: str | Path | None = None,
) -> Report:
    """Read a server's log, or look at a running one, and say what happened, why, and what to change.

    Args:
        source: A file, the name of a server that farspan started, "-" for standard input, "container:NAME",
            "pod:[NAMESPACE/]NAME", lines of the log itself, or its bytes in pieces. "pid:N", and a container or
            pod with `live`, are looked at as they run.
        url: Where a running server answers, to be looked at.
        live: Look at the running container or pod, beside its log.
        seconds: How long to watch a running server.
        port: The server's port inside its container or pod; 0 to find it.
        api_key: The server's API key.
        model: The model, where the log names only a folder.
        gpus: The GPUs, where the log does not name them: "8xH200".
        engine_version: The engine's version, where the log does not print it.
        container: Of a pod with several containers, the one to read.
        previous: Of a pod, the log from before its last restart.
        bundle: File to write a report to paste to, without secrets, hosts, paths and prompts; None for none.

    Raises:
        InputError: There is no such log or server, or the bundle cannot be written.
    """
    gpu = parse_node(gpus).gpu if gpus else None
    hints = Hints(model=model, gpu=gpu.name if gpu else "", engine_version=engine_version)
    seen = None
    is_process = isinstance(source, str) and source.startswith("pid:")
    if url or live or is_process:
        reach = reach_of(
            source if isinstance(source, str) else "", url=url, container=container, port=port, key=api_key
        )
        seen = live_report(look(reach, seconds=seconds), hints)
        if not source or is_process:
            return seen
    elif not source:
        raise InputError(
            "there is nothing to look at",
            "give a log (- for a pipe), a server's name, container:NAME, pod:NAME, pid:N, or --url",
        )
    report = _read(source, hints, container=container, previous=previous, bundle=bundle)
    if gpu is not None and gpu.assumed:
        report = replace(report, in_plain_terms=(*report.in_plain_terms, f"{gpu.assumed}."))
    if seen is None:
        return report
    findings = sorted((*seen.findings, *report.findings), key=lambda one: list(Severity).index(one.severity))
    return replace(
        report,
        findings=tuple(findings),
        in_plain_terms=(*seen.in_plain_terms, *report.in_plain_terms),
        seen_at=seen.seen_at,
    )


def _read_server(name: str) -> Iterable[bytes] | None:
    """Read the log of a server that farspan has started; None where the name is not one's."""
    from farspan.launch.server_records import StateFolder
    from farspan.verbs.logs import logs

    if (
        is_pasted(name)
        or Path(name).exists()
        or name not in {record.name for record in StateFolder().records()}
    ):
        return None
    return logs(name).pieces()


def _read(
    source: str | Path | Iterable[bytes],
    hints: Hints,
    *,
    container: str,
    previous: bool,
    bundle: str | Path | None,
) -> Report:
    pieces = (
        _read_server(str(source)) or read_source(str(source), container=container, previous=previous)
        if isinstance(source, str | Path)
        else source
    )
    if bundle is None:
        return examine(pieces, hints)
    excerpt = LogExcerpt()
    report = examine(excerpt.through(pieces), hints)
    try:
        Path(bundle).write_text("\n".join((*bundle_lines(report, excerpt), "")), encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{bundle} cannot be written ({error.strerror})", "give --bundle a file that can"
        ) from error
    return report
