"""Where a log comes from: a file, a pipe, a docker container, a Kubernetes pod."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from farspan.errors import InputError

_PIECE = 1 << 20
_GZIP = b"\x1f\x8b"
_PASTED_WORDS = 5
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def read_source(source: str, *, container: str = "", previous: bool = False) -> Iterator[bytes]:
    """Yield the log in pieces of at most 1 MiB.

    Args:
        source: A path (gzip is unpacked), `-` for standard input, `container:NAME`, `pod:[NAMESPACE/]NAME`, or lines of
            the log themselves, pasted.
        container: Of a pod with several, the one to read.
        previous: Of a pod, the log of the container's life before its restart.

    Raises:
        InputError: The log cannot be read.
    """
    if is_pasted(source):
        yield source.encode("utf-8", "surrogateescape")
        return
    kind, colon, name = source.partition(":")
    if colon and kind in ("container", "pod"):
        yield from _run(_logs_command(kind, name, container, previous=previous))
        return
    if container or previous:
        raise InputError("--container and --previous belong to a pod", "give pod:NAME")
    if source == "-":
        yield from _pieces(sys.stdin.buffer)
        return
    path = Path(source)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            yield from _pieces(cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{source} cannot be read ({reason})",
            "give a log file, the name of a server in farspan status, -, container:NAME or pod:NAME",
        ) from error


def is_pasted(source: str) -> bool:
    """Whether a source is a piece of a log and not its name: it has lines or many words, and no file is called so."""
    if os.path.exists(source):  # noqa: PTH110 it is False for a name that is too long, where Path raises
        return False
    return "\n" in source.strip() or len(source.split()) >= _PASTED_WORDS


def _logs_command(kind: str, name: str, container: str, *, previous: bool) -> list[str]:
    namespace, slash, pod = name.rpartition("/")
    wanted = (
        [name]
        if kind == "container"
        else [pod, *([namespace] if slash else []), *([container] if container else [])]
    )
    for word in wanted:
        if not _NAME.fullmatch(word):
            raise InputError(f"{word!r} is not a name of a {kind}", f"give {kind}:NAME")
    if kind == "container":
        if container or previous:
            raise InputError("--container and --previous belong to a pod", "give pod:NAME")
        return ["docker", "logs", name]
    command = ["kubectl", "logs", pod]
    if slash:
        command += ["--namespace", namespace]
    if container:
        command += ["--container", container]
    return [*command, "--previous"] if previous else command


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    # read1 gives what there is: a pipe that is still being written is read as it comes.
    read = getattr(file, "read1", file.read)
    while piece := read(_PIECE):
        yield piece


def _run(command: list[str]) -> Iterator[bytes]:
    program = command[0]
    if shutil.which(program) is None:
        raise InputError(
            f"{program} is not installed here", "read the log on the host, or pipe it: ... | farspan doctor -"
        )
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        said = b""
        try:
            for piece in _pieces(process.stdout):
                said = (said + piece)[-400:] if len(said) < 400 else said
                yield piece
        except GeneratorExit:
            process.terminate()
            raise
        status = process.wait()
    if status:
        words = said.decode("utf-8", "replace").strip().splitlines()
        reason = words[-1] if words else f"status {status}"
        raise InputError(
            f"`{' '.join(command)}` failed ({reason})", f"check the name, and that {program} works here"
        )
