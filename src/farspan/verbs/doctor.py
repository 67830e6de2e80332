"""Say what happened to a server, why, and what to change, from its log."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from farspan.diagnosis.bundle import LogExcerpt, bundle_lines
from farspan.diagnosis.diagnose import Report
from farspan.diagnosis.examine import examine
from farspan.diagnosis.sources import read_source
from farspan.engines.logs.server_state import Hints
from farspan.errors import InputError
from farspan.hardware.node_spelling import parse_node


def doctor(
    source: str | Path | Iterable[bytes],
    *,
    model: str = "",
    gpus: str = "",
    engine_version: str = "",
    container: str = "",
    previous: bool = False,
    bundle: str | Path | None = None,
) -> Report:
    """Read a server's log and say what happened, why, and what to change.

    Args:
        source: A file, "-" for standard input, "container:NAME", "pod:[NAMESPACE/]NAME", or the log's bytes in
            pieces.
        model: The model, where the log names only a folder.
        gpus: The GPUs, where the log does not name them: "8xH200".
        engine_version: The engine's version, where the log does not print it.
        container: Of a pod with several containers, the one to read.
        previous: Of a pod, the log from before its last restart.
        bundle: File to write a report to paste to, without secrets, hosts, paths and prompts; None for none.

    Raises:
        InputError: There is no such log, or the bundle cannot be written.
    """
    hints = Hints(model=model, gpu=parse_node(gpus).gpu.name if gpus else "", engine_version=engine_version)
    pieces = (
        read_source(str(source), container=container, previous=previous)
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
