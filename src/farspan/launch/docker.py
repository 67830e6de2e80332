"""A server in a docker container: its command line, and its life through the docker program."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from farspan.errors import InputError, LaunchError, UnsupportedError
from farspan.launch.launch_spec import INSIDE_PORT, Launch, digest, shm_bytes
from farspan.launch.local import LocalServer, read_tail
from farspan.launch.program import Program
from farspan.sizes import GIB

_LABEL = "farspan.digest"
_STOP_S = 30
_POLL_S = 1.0
_DRAIN_S = 10.0
_FAILURES = 5
_RUN_S = 3600.0


@dataclass(frozen=True, slots=True)
class DockerOptions:
    """What only docker needs.

    Args:
        image: The image.
        devices: GPUs by index or UUID; empty takes as many as the plan says.
        shm_gib: Size of /dev/shm in GiB; 0 for the plan's.
        extra: Arguments for docker run, as they are.
        compile_cache: A folder of this machine that keeps compiled kernels from one start to the next.
    """

    image: str
    devices: str = ""
    shm_gib: int = 0
    extra: tuple[str, ...] = ()
    compile_cache: Path | None = None


def docker_argv(launch: Launch, options: DockerOptions) -> tuple[str, ...]:
    """The arguments of `docker`, secrets by name only.

    Raises:
        InputError: A folder to mount has a colon in its path.
        UnsupportedError: A folder for compiled kernels is given, and the engine compiles none worth keeping.
    """
    command, files = launch.command, launch.files
    words = ["run", "--detach", "--init", "--name", launch.name]
    if launch.gpus:
        words += ["--gpus", f'"device={options.devices}"' if options.devices else str(launch.gpus)]
    shm = options.shm_gib or shm_bytes(launch.context, max(launch.gpus, 1)) // GIB
    words += ["--shm-size", f"{shm}g"]
    words += ["--ulimit", "memlock=-1", "--ulimit", "stack=67108864", "--ulimit", "nofile=65536:65536"]
    if launch.nodes.count > 1:
        # Ranks on other machines connect to ports the engine chooses.
        words += ["--network", "host"]
    else:
        host = f"[{launch.host}]" if ":" in launch.host else launch.host
        words += ["--publish", f"{host}:{launch.port}:{INSIDE_PORT}"]
    for mount in files.mounts:
        if ":" in f"{mount.host}{mount.inside}":
            raise InputError(f"{mount.host} has a colon in its path, where docker ends it", "move the folder")
        words += ["--volume", f"{mount.host}:{mount.inside}{':ro' if mount.read_only else ''}"]
    if options.compile_cache is not None:
        words += ["--volume", f"{options.compile_cache}:{_kernel_folder(launch)}"]
    for name, value in {**files.env, **command.env}.items():
        words += ["--env", f"{name}={value}"]
    for name in launch.secrets:
        words += ["--env", name]
    words += list(options.extra)
    words += ["--label", f"{_LABEL}={digest([words, options.image, command.argv])}"]
    program, rest = command.program[0], command.program[1:]
    words += ["--entrypoint", program, options.image, *rest, *command.arguments]
    return tuple(words)


def _kernel_folder(launch: Launch) -> str:
    if not launch.engine.kernel_folder:
        raise UnsupportedError(
            f"{launch.engine.name} keeps no compiled kernels from one start to the next",
            "drop --compile-cache",
        )
    return launch.engine.kernel_folder


def docker_digest(argv: Sequence[str]) -> str:
    """The fingerprint inside a docker command line."""
    return next(word for word in argv if word.startswith(f"{_LABEL}=")).partition("=")[2]


class Docker:
    """The docker program.

    Args:
        secrets: Names of variables that hold the server's secrets, which docker itself has no need of.
    """

    def __init__(self, secrets: Collection[str] = ()) -> None:
        self.program = Program("docker", "install docker, or use --runtime local", secrets=secrets)

    def existing(self, name: str) -> tuple[str, str] | None:
        """State and fingerprint of a container; None when there is none of that name.

        Raises:
            LaunchError: docker does not work.
        """
        words = ("container", "inspect", "--format")
        template = f'{{{{.State.Status}}}} {{{{index .Config.Labels "{_LABEL}"}}}}'
        done = self.program.run(*words, template, name)
        if done.status:
            if "no such container" in done.error.lower():
                return None
            raise _no_answer(done.error)
        state, _, found = done.output.strip().partition(" ")
        return state, found

    def start(self, argv: Sequence[str], secrets: Mapping[str, str]) -> str:
        """Start a container and return its id. The image is pulled if need be, which may take long; should this
        program die meanwhile, docker is not left to finish it.

        Args:
            argv: From `docker_argv`.
            secrets: Values of the variables passed by name; they reach docker through its environment alone.

        Raises:
            LaunchError: docker refuses.
        """
        with tempfile.TemporaryDirectory(prefix="farspan-") as folder:
            output = Path(folder) / "docker-run"
            with LocalServer(
                self.program.argv(*argv), log=output, environment=secrets, withheld=self.program.withheld
            ) as run:
                run.wait(_RUN_S)
                status = run.exit_status
            words = read_tail(output, 12)
        if status:
            reason = " ".join(" ".join(words).split())
            raise LaunchError(f"docker run failed: {reason[-600:]}", docker_failure_fix(reason))
        if status is None:
            raise LaunchError(
                f"docker run did not end within {_RUN_S:g} s", "pull the image first: docker pull"
            )
        return words[-1].strip() if words else ""

    def removal(self, container: str) -> tuple[str, ...]:
        """The command that removes a container, whatever its state."""
        return self.program.argv("rm", "--force", container)

    def restart(self, name: str) -> None:
        """Start a stopped container again."""
        self.program.run_checked("start", name)

    def stop(self, name: str) -> None:
        """Stop a container and remove it; one that is gone is fine.

        Raises:
            LaunchError: docker cannot remove it.
        """
        self.program.run("stop", "--time", str(_STOP_S), name, limit_s=_STOP_S + 60.0)
        done = self.program.run("rm", "--force", name)
        if done.status and "no such container" not in done.error.lower():
            raise LaunchError(
                f"docker rm failed: {' '.join(done.error.split())[:400]}", f"run docker rm --force {name}"
            )

    def exit_status(self, name: str) -> int | None:
        """A container's exit status; None while it runs, 137 when it is gone.

        Raises:
            LaunchError: docker does not answer.
        """
        done = self.program.run(
            "container",
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}",
            name,
        )
        if done.status:
            if "no such container" in done.error.lower():
                return 137
            raise _no_answer(done.error)
        state, code, _ = [*done.output.split(), "", "", ""][:3]
        return int(code or 1) if state in ("exited", "dead", "removing") else None

    def log_argv(self, name: str, *, follow: bool, lines: int | None = None) -> tuple[str, ...]:
        """The command that shows a container's log, or its last lines."""
        tail = ("--tail", str(lines)) if lines else ()
        return self.program.argv("logs", *(("--follow",) if follow else ()), *tail, name)


def docker_failure_fix(reason: str) -> str:
    """What to do about the words docker run fails with."""
    lower = reason.lower()
    if (
        "could not select device driver" in lower
        or "nvidia-container" in lower
        or "unresolvable cdi" in lower
    ):
        return (
            "docker cannot give GPUs to a container: install the NVIDIA Container Toolkit, run "
            "sudo nvidia-ctk runtime configure --runtime=docker, restart docker, and try "
            "docker run --rm --gpus all ubuntu nvidia-smi"
        )
    if "port is already allocated" in lower or "address already in use" in lower:
        return "choose another --port; 0 takes a free one"
    if "permission denied" in lower and "docker.sock" in lower:
        return "join the docker group (sudo usermod -aG docker $USER) and log in again"
    if "pull access denied" in lower or "manifest unknown" in lower or "not found" in lower:
        return "check the image's name and tag, and whether docker login is needed"
    if "no space left on device" in lower:
        return "free space for docker: docker system df shows what it holds"
    return "see docker run --help"


def _no_answer(error: str) -> LaunchError:
    reason = " ".join(error.split())[:400]
    return LaunchError(f"docker does not answer: {reason}", "start the docker daemon, or check your rights")


class DockerServer:
    """A container being watched; its log is copied to a file.

    Args:
        docker: The docker program.
        name: The container.
        log: Where its log goes.
    """

    def __init__(self, docker: Docker, name: str, log: Path) -> None:
        self.log = log
        self.started = time.monotonic()
        self._docker = docker
        self._name = name
        self._follower = LocalServer(
            docker.log_argv(name, follow=True), log=log, grace_s=1.0, withheld=docker.program.withheld
        )
        self._last_look = 0.0
        self._failures = 0
        self._status: int | None = None

    @property
    def exit_status(self) -> int | None:
        """The container's exit status; None while it runs."""
        now = time.monotonic()
        if self._status is None and now - self._last_look > _POLL_S:
            self._last_look = now
            try:
                self._status = self._docker.exit_status(self._name)
                self._failures = 0
            except LaunchError:
                # One hiccup of the daemon must not end a start of ten minutes.
                self._failures += 1
                if self._failures >= _FAILURES:
                    raise
            if self._status is not None:
                self._follower.wait(_DRAIN_S)  # its last words are what matters
        return self._status

    def tail(self, lines: int = 15) -> tuple[str, ...]:
        """The last lines of the log that are not empty."""
        return read_tail(self.log, lines)

    def close(self) -> None:
        """Stop copying the log."""
        self._follower.stop()
