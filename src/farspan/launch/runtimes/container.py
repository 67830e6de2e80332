"""A server as a docker container."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from farspan.launch.docker import Docker, DockerOptions, DockerServer, docker_argv, docker_digest
from farspan.launch.helper_environment import helper_environment
from farspan.launch.launch_spec import Launch
from farspan.launch.on_parent_death import OnParentDeath
from farspan.launch.runtime import Running
from farspan.launch.server_records import StateFolder


class DockerRuntime:
    """A container."""

    def __init__(self, launch: Launch, options: DockerOptions) -> None:
        self.launch = launch
        self._argv = docker_argv(launch, options)
        self._docker = Docker(launch.secrets.values())
        self._folders = [mount.host for mount in launch.files.mounts if not mount.read_only]
        if options.compile_cache is not None:
            self._folders.append(options.compile_cache)

    def describe(self) -> dict[str, object]:
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
        environment = helper_environment(withheld=self._docker.program.withheld)
        removal = OnParentDeath(self._docker.removal(self.launch.name), environment)
        try:
            container = self._docker.start(self._argv, secrets)
            if container:
                # From here on its id, so that a later container of that name is never meant.
                removal, by_name = OnParentDeath(self._docker.removal(container), environment), removal
                by_name.dismiss()
        except BaseException:
            self._docker.stop(self.launch.name)  # one that could not start is there all the same
            removal.dismiss()
            raise
        return DockerRun(self._docker, self.launch, log, removal)

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

    def record_fields(self, running: Running) -> dict[str, object]:  # noqa: ARG002
        """Return what a record keeps."""
        return {"container": self.launch.name}


class DockerRun(DockerServer):
    """A container and what may be done with it."""

    def __init__(
        self, docker: Docker, launch: Launch, log: Path, removal: OnParentDeath | None = None
    ) -> None:
        super().__init__(docker, launch.name, log)
        self.url = launch.url
        self._removal = removal

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
        if self._removal is not None:
            self._removal.dismiss()
