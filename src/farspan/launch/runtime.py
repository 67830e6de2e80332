"""The three ways to run a server, behind one interface: show it, look for an older one, start it, end it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from farspan.errors import InputError
from farspan.launch.docker import Docker, DockerOptions, DockerServer, docker_argv, docker_digest
from farspan.launch.kubernetes import Cluster, ClusterServer
from farspan.launch.lastwill import LastWill
from farspan.launch.local import LaunchError, LocalServer, import_path, read_tail
from farspan.launch.manifest import ClusterOptions, manifest_text, manifests
from farspan.launch.prepare import Prepared
from farspan.launch.readiness import Watched
from farspan.launch.spec import Launch, digest
from farspan.launch.state import ServerRecord, StateFolder, process_start

_GRACE_S = 20.0


class IfExists(StrEnum):
    """What to do when a server of that name is there already."""

    REFUSE = "refuse"
    REPLACE = "replace"
    REUSE = "reuse"


class Running(Watched, Protocol):
    """A server that was started, or found running."""

    @property
    def url(self) -> str:
        """Where it answers; empty as long as it cannot be reached."""

    def let_go(self) -> None:
        """Stop watching; the server stays."""

    def end(self) -> None:
        """End the server, with everything it started."""


class Runtime(Protocol):
    """One way to run a server."""

    launch: Launch

    def shown(self) -> dict[str, object]:
        """What would run, as JSON values without secrets."""

    def text(self) -> str:
        """What would run, ready to paste."""

    def find(self, state: StateFolder) -> str | None:
        """The fingerprint of a server of that name that is there already; None when there is none."""

    def fingerprint(self) -> str:
        """The fingerprint of what would run."""

    def start(self, log: Path, secrets: Mapping[str, str]) -> Running:
        """Start it."""

    def attach(self, log: Path, state: StateFolder) -> Running:
        """Watch the one that is there already."""

    def remove(self, state: StateFolder) -> None:
        """End the one that is there already."""

    def fields(self, running: Running) -> dict[str, object]:
        """What a record keeps of it: fields of ServerRecord."""


def choose_runtime(
    prepared: Prepared, docker: DockerOptions, cluster: ClusterOptions, context: str = ""
) -> Runtime:
    """The runtime of a prepared server."""
    if prepared.launch.runtime == "docker":
        return DockerRuntime(prepared.launch, docker)
    if prepared.launch.runtime == "kubernetes":
        return ClusterRuntime(prepared, cluster, context)
    return LocalRuntime(prepared.launch)


def clear_way(runtime: Runtime, state: StateFolder, policy: IfExists) -> bool:
    """Deal with a server of that name that is there already.

    Returns:
        Whether it is to be used as it is.

    Raises:
        InputError: There is one, and it is not to be touched, or is not the one wanted.
    """
    name = runtime.launch.name
    found = runtime.find(state)
    if found is None:
        return False
    if policy is IfExists.REPLACE:
        runtime.remove(state)
        return False
    if policy is IfExists.REUSE:
        if found != runtime.fingerprint():
            raise InputError(
                f"the server {name} that is there was started differently",
                "use --if-exists replace, or another --name",
            )
        return True
    raise InputError(
        f"a server {name} is there already",
        "use --if-exists reuse or replace, another --name, or farspan stop first",
    )


class LocalRuntime:
    """A process group of this machine."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    def shown(self) -> dict[str, object]:
        """Return what would run."""
        command = self.launch.command
        return {
            "argv": list(command.argv),
            "env": dict(command.env),
            "secret_env": sorted(self.launch.secrets),
        }

    def text(self) -> str:
        """Return what would run, ready to paste."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.launch.command.env.items()]
        return " ".join([*words, shlex.join(self.launch.command.argv)])

    def fingerprint(self) -> str:
        """Return the fingerprint of what would run."""
        return digest([list(self.launch.command.argv), dict(self.launch.command.env)])

    def find(self, state: StateFolder) -> str | None:
        """Return the fingerprint of what is there; None when there is nothing."""
        record = state.load(self.launch.name)
        return record.digest if record is not None and is_alive(record) else None

    def start(self, log: Path, secrets: Mapping[str, str]) -> LocalRun:
        """Start it."""
        own = import_path() if self.launch.engine == "builtin" else {}
        environment = {**own, **self.launch.command.env, **secrets}
        server = LocalServer(self.launch.command.argv, log=log, environment=environment, grace_s=_GRACE_S)
        return LocalRun(server, self.launch.url)

    def attach(self, log: Path, state: StateFolder) -> FoundProcess:
        """Watch what is there."""
        record = state.find(self.launch.name)
        return FoundProcess(record, log)

    def remove(self, state: StateFolder) -> None:
        """End what is there."""
        end_process(state.find(self.launch.name))
        state.remove(self.launch.name)

    def fields(self, running: Running) -> dict[str, object]:
        """Return what a record keeps."""
        assert isinstance(running, (LocalRun, FoundProcess))
        return {"pid": running.pid, "pid_started": process_start(running.pid)}


class LocalRun:
    """A process this program started; see `LocalServer`."""

    def __init__(self, server: LocalServer, url: str) -> None:
        self._server = server
        self.url = url
        self.log = server.log
        self.started = server.started
        self.pid = server.guard_pid

    @property
    def exit_status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._server.exit_status

    def tail(self, lines: int = 15) -> tuple[str, ...]:
        """The last lines of the log that are not empty."""
        return self._server.tail(lines)

    def let_go(self) -> None:
        """Stop watching; the server stays."""
        self._server.detach()

    def end(self) -> None:
        """End it, with everything it started."""
        self._server.stop()


class FoundProcess:
    """A process an earlier farspan started and let go."""

    def __init__(self, record: ServerRecord, log: Path) -> None:
        self._record = record
        self.url = record.url
        self.log = log
        self.started = time.monotonic()
        self.pid = record.pid

    @property
    def exit_status(self) -> int | None:
        """The exit status; None while it runs."""
        return None if is_alive(self._record) else 1

    def tail(self, lines: int = 15) -> tuple[str, ...]:
        """The last lines of the log that are not empty."""
        return read_tail(self.log, lines)

    def let_go(self) -> None:
        """Stop watching; the server stays."""
        return

    def end(self) -> None:
        """End it, with everything it started."""
        end_process(self._record)


def is_alive(record: ServerRecord) -> bool:
    """Whether a local server's process is still the one that was started."""
    return bool(record.pid) and process_start(record.pid) == record.pid_started != 0


def end_process(record: ServerRecord) -> None:
    """End a local server that was let go, and wait until it is gone. One that is gone is fine.

    Raises:
        LaunchError: It does not go.
    """
    if not is_alive(record):
        return
    with contextlib.suppress(ProcessLookupError):  # it went by itself just now
        os.kill(record.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S + 15
    while is_alive(record):
        if time.monotonic() > deadline:
            raise LaunchError(f"process {record.pid} does not end", f"run kill -9 {record.pid}")
        time.sleep(0.05)


class DockerRuntime:
    """A container."""

    def __init__(self, launch: Launch, options: DockerOptions) -> None:
        self.launch = launch
        self._argv = docker_argv(launch, options)
        self._docker = Docker()
        self._folders = [mount.host for mount in launch.files.mounts if not mount.read_only]
        if options.compile_cache is not None:
            self._folders.append(options.compile_cache)

    def shown(self) -> dict[str, object]:
        """Return what would run."""
        files, command = self.launch.files, self.launch.command
        return {
            "argv": ["docker", *self._argv],
            "env": {**files.env, **command.env},
            "secret_env": sorted(self.launch.secrets),
        }

    def text(self) -> str:
        """Return what would run, ready to paste."""
        return shlex.join(["docker", *self._argv])

    def fingerprint(self) -> str:
        """Return the fingerprint of what would run."""
        return docker_digest(self._argv)

    def find(self, state: StateFolder) -> str | None:  # noqa: ARG002
        """Return the fingerprint of what is there; None when there is nothing."""
        found = self._docker.existing(self.launch.name)
        return None if found is None else found[1]

    def start(self, log: Path, secrets: Mapping[str, str]) -> DockerRun:
        """Start it."""
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True)  # docker would make it, as root
        will = LastWill(self._docker.removal(self.launch.name))
        try:
            container = self._docker.start(self._argv, secrets)
            if container:
                # From here on its id, so that a later container of that name is never meant.
                will, by_name = LastWill(self._docker.removal(container)), will
                by_name.dismiss()
        except BaseException:
            self._docker.stop(self.launch.name)  # one that could not start is there all the same
            will.dismiss()
            raise
        return DockerRun(self._docker, self.launch, log, will)

    def attach(self, log: Path, state: StateFolder) -> DockerRun:  # noqa: ARG002
        """Watch what is there."""
        found = self._docker.existing(self.launch.name)
        if found is not None and found[0] != "running":
            self._docker.restart(self.launch.name)
        return DockerRun(self._docker, self.launch, log)

    def remove(self, state: StateFolder) -> None:
        """End what is there."""
        self._docker.stop(self.launch.name)
        state.remove(self.launch.name)

    def fields(self, running: Running) -> dict[str, object]:  # noqa: ARG002
        """Return what a record keeps."""
        return {"container": self.launch.name}


class DockerRun(DockerServer):
    """A container and what may be done with it."""

    def __init__(self, docker: Docker, launch: Launch, log: Path, will: LastWill | None = None) -> None:
        super().__init__(docker, launch.name, log)
        self.url = launch.url
        self._will = will

    def let_go(self) -> None:
        """Stop watching; the server stays."""
        self.close()
        self._dismiss()

    def end(self) -> None:
        """End it, with everything it started."""
        self.close()
        self._docker.stop(self._name)
        self._dismiss()

    def _dismiss(self) -> None:
        if self._will is not None:
            self._will.dismiss()


class ClusterRuntime:
    """A Deployment or LeaderWorkerSet, and a Service."""

    def __init__(self, prepared: Prepared, options: ClusterOptions, context: str) -> None:
        self.launch = prepared.launch
        self._objects = manifests(prepared.launch, options, prepared.worker)
        self._cluster = Cluster(context, options.namespace)
        self._several = prepared.worker is not None

    def shown(self) -> dict[str, object]:
        """Return what would run."""
        return {
            "manifest": self._objects,
            "env": dict(self.launch.command.env),
            "secret_env": sorted(self.launch.command.secrets),
        }

    def text(self) -> str:
        """Return what would run, ready to paste."""
        return manifest_text(self._objects)

    def fingerprint(self) -> str:
        """Return the fingerprint of what would run."""
        return str(self._objects[0]["metadata"]["annotations"]["farspan/digest"])

    def find(self, state: StateFolder) -> str | None:  # noqa: ARG002
        """Return the fingerprint of what is there; None when there is nothing."""
        return self._cluster.existing_digest(self.launch.name, self._objects[0]["kind"].lower())

    def start(self, log: Path, secrets: Mapping[str, str]) -> ClusterRun:  # noqa: ARG002
        """Start it."""
        try:
            self._cluster.apply(self.text())
        except BaseException:
            self._cluster.delete(self.launch.name, several_nodes=self._several)  # half of it may be there
            raise
        return self._run(log)

    def attach(self, log: Path, state: StateFolder) -> ClusterRun:  # noqa: ARG002
        """Watch what is there."""
        return self._run(log)

    def remove(self, state: StateFolder) -> None:
        """End what is there."""
        self._cluster.delete(self.launch.name, several_nodes=self._several)
        state.remove(self.launch.name)

    def fields(self, running: Running) -> dict[str, object]:  # noqa: ARG002
        """Return what a record keeps."""
        return {"cluster": {**self._cluster.record, "several_nodes": str(self._several)}}

    def _run(self, log: Path) -> ClusterRun:
        return ClusterRun(self._cluster, self.launch, log, several_nodes=self._several)


class ClusterRun(ClusterServer):
    """Pods and what may be done with them."""

    def __init__(self, cluster: Cluster, launch: Launch, log: Path, *, several_nodes: bool) -> None:
        super().__init__(cluster, launch.name, launch.port, log)
        self._several = several_nodes

    def let_go(self) -> None:
        """Stop watching; the server stays."""
        self.close()

    def end(self) -> None:
        """End it, with everything it started."""
        self.close()
        self._cluster.delete(self._name, several_nodes=self._several)
