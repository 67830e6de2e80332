"""The servers farspan has started: one small file each, so that status, logs and stop find them again."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from farspan.errors import InputError, NotFoundError

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,48}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """A server that was started. Holds no secret.

    Args:
        name: Its name.
        runtime: "local", "docker" or "kubernetes".
        engine: The engine.
        version: Its version.
        model: What the API calls the model.
        url: Where it answers; empty on Kubernetes, where only the cluster reaches it.
        context: Longest request, in tokens.
        started: Seconds since the epoch.
        ready_s: How long the start took; None when it never got ready.
        log: The log file on this machine.
        pid: Process that ends the server on SIGTERM (local), else 0.
        pid_started: That process's start, in clock ticks since boot, so that another one under the same number is
            not taken for it.
        container: Name of the container (docker).
        digest: Fingerprint of what runs.
        cluster: Kubernetes context and namespace.
        key_variable: Environment variable with the API key; empty for none.
        plan: Figures of the plan.
        flags: The engine's arguments and environment, ready to paste.
        tokenizer: Folder of this machine with the model's tokenizer; empty where there is none.
        plan_document: The plan as `farspan plan --json` writes it; empty where nothing was planned.
        plan_arguments: What `farspan.plan` takes to plan further contexts for it.
        failed: Why it did not start, or ended by itself; empty otherwise.
    """

    name: str
    runtime: str
    engine: str
    version: str
    model: str
    url: str
    context: int
    started: float
    log: str
    ready_s: float | None = None
    pid: int = 0
    pid_started: int = 0
    container: str = ""
    digest: str = ""
    cluster: Mapping[str, str] = field(default_factory=dict)
    key_variable: str = ""
    plan: Mapping[str, object] = field(default_factory=dict)
    flags: str = ""
    tokenizer: str = ""
    plan_document: Mapping[str, Any] = field(default_factory=dict)
    plan_arguments: Mapping[str, Any] = field(default_factory=dict)
    failed: str = ""

    def describe_launch(self) -> dict[str, Any]:
        """List what a run keeps of how its server was started; no secret is in it."""
        return {
            "name": self.name,
            "runtime": self.runtime,
            "engine": self.engine,
            "version": self.version,
            "context": self.context,
            "flags": self.flags,
            "ready_s": self.ready_s,
            "plan": dict(self.plan_document) or None,
        }


def state_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where records and logs are: farspan/servers in XDG_STATE_HOME."""
    environment = os.environ if environment is None else environment
    given = environment.get("XDG_STATE_HOME")
    home = Path(given) if given else Path(environment.get("HOME", "~")).expanduser() / ".local" / "state"
    return home / "farspan" / "servers"


def check_name(name: str) -> str:
    """Return a server's name if containers, Kubernetes and files all take it.

    Raises:
        InputError: They do not.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is not a server name",
            "use lower-case letters, digits and dashes, a letter first, up to 50",
        )
    return name


class StateFolder:
    """The records of one user. Writing is atomic; a file that cannot be read is left alone and not listed."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state_folder()

    def log_path(self, name: str) -> Path:
        """Where a server's log goes. Makes the folder, readable by its owner alone.

        Raises:
            InputError: It cannot be made.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be made ({error.strerror})", "set XDG_STATE_HOME to another folder"
            ) from error
        return self.folder / f"{name}.log"

    def save(self, record: ServerRecord) -> None:
        """Write a record, in place of any older one of that name."""
        self.log_path(record.name)
        path = self.folder / f"{record.name}.json"
        scratch = path.with_suffix(f".{os.getpid()}.tmp")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(record), file, indent=2)
        scratch.replace(path)

    def load(self, name: str) -> ServerRecord | None:
        """Read a record; None when there is none, or nothing farspan wrote."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return ServerRecord(**json.loads((self.folder / f"{name}.json").read_bytes()))
        return None

    def records(self) -> list[ServerRecord]:
        """Every record, the oldest first."""
        names = (path.stem for path in self.folder.glob("*.json"))
        found = [record for name in names if (record := self.load(name)) is not None]
        return sorted(found, key=lambda record: record.started)

    def find(self, name: str | None) -> ServerRecord:
        """The record of that name, or the only one; without a name one that failed counts only where no other is.

        Raises:
            NotFoundError: There is none.
            InputError: There are several, and no name is given.
        """
        records = self.records()
        if name is None:
            alone = [record for record in records if not record.failed] or records
            if len(alone) == 1:
                return alone[0]
        for record in records:
            if record.name == name:
                return record
        known = ", ".join(record.name for record in records)
        if name is None and records:
            raise InputError("there are several servers", f"name one of {known}")
        what = "farspan has started no server" if name is None else f"there is no server {name!r}"
        others = f"{'there are' if ',' in known else 'there is'} {known}"
        raise NotFoundError(what, others if known else "start one with farspan serve")

    def remove(self, name: str) -> None:
        """Forget a server; its log stays."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)


def process_start(pid: int) -> int:
    """When a process began, in clock ticks since boot; 0 when there is no such process, or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    after_name = text.rpartition(")")[2].split()
    return 0 if after_name[0] == "Z" else int(after_name[19])
