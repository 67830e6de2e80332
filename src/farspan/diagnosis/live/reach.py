"""How to reach a running server: by its URL, through a process of this machine, a container or a pod."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
import subprocess
import time
import urllib.parse
from dataclasses import dataclass
from typing import Protocol

from farspan.diagnosis.live.processes import (
    listening_ports,
    owner_of_port,
    parse_stack,
    process_tree,
    stack_of,
)
from farspan.errors import InputError, NotFoundError, UnsupportedError

_MOST_BYTES = 8 << 20
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,252}")
_LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
_RUN_S = 30.0
_PORTS = (8000, 30000)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back of one request: status 0 when nothing did, and then why."""

    status: int
    body: bytes
    seconds: float
    why: str = ""


class Reach(Protocol):
    """A way to a server."""

    def get(self, path: str, timeout_s: float) -> Reply:
        """Ask the server for a path; never raises."""

    def pids(self) -> tuple[int, ...]:
        """Its processes, when they can be seen from here."""

    def stack(self, pid: int) -> tuple[tuple[str, str], ...]:
        """Where a process's main thread stands, innermost first; empty when nobody can tell."""

    @property
    def where(self) -> str:
        """Where it is, for a sentence."""


@dataclass(frozen=True, slots=True)
class UrlReach:
    """A server at a URL; its processes when it runs on this machine."""

    url: str
    root: int | None = None
    key: str = ""

    @property
    def where(self) -> str:
        """The URL."""
        return self.url

    def get(self, path: str, timeout_s: float) -> Reply:
        """Ask by HTTP; at most 8 MiB of the answer are read."""
        parts = urllib.parse.urlsplit(self.url)
        began = time.monotonic()
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=timeout_s, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        try:
            headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
            connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
            response = connection.getresponse()
            return Reply(response.status, response.read(_MOST_BYTES), time.monotonic() - began)
        except (OSError, http.client.HTTPException) as error:
            why = (
                "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            )
            return Reply(0, b"", time.monotonic() - began, why)
        finally:
            connection.close()

    def pids(self) -> tuple[int, ...]:
        """The tree of the process that was given, or of the one that listens on the port here."""
        root = self.root
        parts = urllib.parse.urlsplit(self.url)
        if root is None and parts.hostname in _LOCAL:
            root = owner_of_port(parts.port or 80)
        return process_tree(root) if root is not None else ()

    def stack(self, pid: int) -> tuple[tuple[str, str], ...]:
        """By py-spy, where it is installed."""
        return stack_of(pid)


@dataclass(frozen=True, slots=True)
class PodReach:
    """A server in a pod, through the Kubernetes API: no port needs to be forwarded."""

    pod: str
    namespace: str
    container: str
    port: int

    @property
    def where(self) -> str:
        """The pod's name."""
        return f"pod {self.namespace}/{self.pod}"

    def get(self, path: str, timeout_s: float) -> Reply:
        """Ask through the API server's proxy."""
        began = time.monotonic()
        raw = f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}:{self.port}/proxy{path}"
        done = _run(["kubectl", "get", "--raw", raw, f"--request-timeout={timeout_s:.0f}s"], timeout_s + 5)
        seconds = time.monotonic() - began
        if done is None:
            return Reply(0, b"", seconds, "no answer in time")
        if done.returncode:
            return Reply(0, b"", seconds, done.stderr.decode("utf-8", "replace").strip()[-200:])
        return Reply(200, done.stdout[:_MOST_BYTES], seconds)

    def pids(self) -> tuple[int, ...]:
        """The pod's processes by its own numbers, where it has ps."""
        done = _run([*self._exec(), "ps", "-e", "-o", "pid="], _RUN_S)
        words = (
            done.stdout.decode("ascii", "replace").split() if done is not None and not done.returncode else []
        )
        return tuple(int(word) for word in words[:64] if word.isdecimal())

    def stack(self, pid: int) -> tuple[tuple[str, str], ...]:
        """By py-spy in the pod, where it is installed and allowed."""
        done = _run([*self._exec(), "py-spy", "dump", "--nonblocking", "--pid", str(pid)], _RUN_S)
        return (
            parse_stack(done.stdout.decode("utf-8", "replace"))
            if done is not None and not done.returncode
            else ()
        )

    def _exec(self) -> list[str]:
        container = ["--container", self.container] if self.container else []
        return ["kubectl", "exec", self.pod, "--namespace", self.namespace, *container, "--"]


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[bytes] | None:
    try:
        return subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def reach_of(source: str, *, url: str = "", container: str = "", port: int = 0, key: str = "") -> Reach:
    """The way to a running server.

    Args:
        source: `pid:N`, `container:NAME`, `pod:[NAMESPACE/]NAME`, or empty where a URL is given.
        url: Where it answers; empty where the source says.
        container: Of a pod with several containers, the one it runs in.
        port: Its port inside a pod or container; 0 to find it.
        key: Its API key.

    Raises:
        InputError: The source or the URL is none.
        NotFoundError: There is no such process or container.
        UnsupportedError: The program that is needed is not installed.
    """
    kind, _, name = source.partition(":")
    if url:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r} is not a URL of a server", "give http://HOST:PORT")
        root = int(name) if kind == "pid" and name.isdecimal() else None
        return UrlReach(url.rstrip("/").removesuffix("/v1"), root, key)
    if kind == "pid":
        return _process(name, key)
    if kind == "container":
        return _container(name, port, key)
    if kind == "pod":
        namespace, slash, pod = name.rpartition("/")
        for word in (pod, namespace if slash else "default"):
            if not _NAME.fullmatch(word):
                raise InputError(f"{word!r} is not a name of a pod", "give pod:[NAMESPACE/]NAME")
        _need("kubectl")
        return PodReach(pod, namespace or "default", container, port or _PORTS[0])
    raise InputError(
        f"{source!r} is no running server", "give --url URL, pid:N, container:NAME or pod:[NAMESPACE/]NAME"
    )


def _need(program: str) -> None:
    if shutil.which(program) is None:
        raise UnsupportedError(f"{program} is not installed here", "give --url URL of the server instead")


def _process(name: str, key: str) -> UrlReach:
    if not name.isdecimal():
        raise InputError(f"{name!r} is not a process id", "give pid:N")
    pids = process_tree(int(name))
    if not pids:
        raise NotFoundError(
            f"there is no process {name}",
            "give the id of the server's first process: pgrep -af 'vllm|sglang'",
        )
    ports = listening_ports(pids)
    likely = next((one for one in _PORTS if one in ports), ports[0] if ports else 0)
    return UrlReach(f"http://127.0.0.1:{likely}", int(name), key)


def _container(name: str, port: int, key: str) -> UrlReach:
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is not a name of a container", "give container:NAME")
    _need("docker")
    done = _run(["docker", "inspect", name], _RUN_S)
    if done is None or done.returncode:
        said = (
            done.stderr.decode("utf-8", "replace").strip()[-200:] if done is not None else "no answer in time"
        )
        raise NotFoundError(f"docker knows no container {name} ({said})", "docker ps -a shows them")
    try:
        state = json.loads(done.stdout)[0]
        pid = int(state["State"]["Pid"])
        settings = state.get("NetworkSettings") or {}
        networks = (settings.get("Networks") or {}).values()
        addresses = [str(network.get("IPAddress") or "") for network in networks]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            f"docker inspect {name} answers what cannot be read", "give --url URL instead"
        ) from error
    if not pid:
        raise InputError(f"container {name} does not run", f"read its log: farspan doctor container:{name}")
    address = next((one for one in addresses if one), "127.0.0.1")
    ports = listening_ports(process_tree(pid))
    likely = port or next((one for one in _PORTS if one in ports), ports[0] if ports else _PORTS[0])
    return UrlReach(f"http://{address}:{likely}", pid, key)
