"""A server on Kubernetes, through the kubectl program."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from farspan.errors import LaunchError
from farspan.launch.local import LocalServer, find_free_port, read_tail
from farspan.launch.manifest import INSTANCE
from farspan.launch.program import Program

_KINDS = "deployment,service"
_POLL_S = 2.0
_DRAIN_S = 10.0
_FAILURES = 5
# Reasons a waiting container gives that waiting does not cure.
_FINAL_REASONS = (
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
)


class Cluster:
    """kubectl, with a context and a namespace.

    Args:
        context: kubectl's context; empty for the current one.
        namespace: The namespace.
        secrets: Names of variables that hold the server's secrets, which kubectl itself has no need of.
    """

    def __init__(self, context: str = "", namespace: str = "default", secrets: Collection[str] = ()) -> None:
        self.context = context
        self.namespace = namespace
        options = (*(("--context", context) if context else ()), "--namespace", namespace)
        self.program = Program(
            "kubectl", "install kubectl, or print the manifest with --dry-run", options, secrets
        )

    @property
    def record(self) -> Mapping[str, str]:
        """What a record keeps of it."""
        return {"context": self.context, "namespace": self.namespace}

    def existing_digest(self, name: str, kind: str) -> str | None:
        """Fingerprint of what runs under a name; None when nothing does.

        Raises:
            LaunchError: kubectl does not work.
        """
        found = self.program.run_checked("get", kind, name, "--ignore-not-found", "--output", "json")
        if not found.strip():
            return None
        annotations = json.loads(found).get("metadata", {}).get("annotations", {})
        return str(annotations.get("farspan/digest", ""))

    def apply(self, manifest: str) -> None:
        """Apply a manifest.

        Raises:
            LaunchError: The cluster refuses it.
        """
        self.program.run_checked("apply", "--filename", "-", text=manifest)

    def delete(self, name: str, *, several_nodes: bool) -> None:
        """Remove a server's objects and wait until they are gone; those that are gone already are fine.

        Raises:
            LaunchError: kubectl does not work.
        """
        kinds = f"{_KINDS},leaderworkerset" if several_nodes else _KINDS
        self.program.run_checked(
            *("delete", kinds, "--selector", f"{INSTANCE}={name}"),
            *("--ignore-not-found", "--wait", "--timeout", "180s"),
            limit_s=240.0,
        )

    def pods(self, name: str) -> list[dict[str, Any]]:
        """A server's pods.

        Raises:
            LaunchError: kubectl does not work.
        """
        found = self.program.run_checked(
            "get", "pods", "--selector", f"{INSTANCE}={name}", "--output", "json"
        )
        items = json.loads(found)["items"]
        assert isinstance(items, list)
        return items

    def log_argv(self, name: str, *, follow: bool, lines: int | None = None) -> tuple[str, ...]:
        """The command that shows the logs of a server's pods, or the last lines of each."""
        return self.program.argv(
            *("logs", "--selector", f"{INSTANCE}={name}", "--prefix", f"--tail={lines or -1}"),
            *("--max-log-requests=32", *(("--follow",) if follow else ())),
        )


class ClusterServer:
    """Pods being watched; their log is copied to a file, their port brought to this machine.

    Args:
        cluster: Where they are.
        name: The server.
        port: The Service's port.
        log: Where the log goes.
    """

    def __init__(self, cluster: Cluster, name: str, port: int, log: Path) -> None:
        self.log = log
        self.started = time.monotonic()
        self.waits_for = "no pod yet"
        self.url = ""
        self._cluster = cluster
        self._name = name
        self._port = port
        self._last_look = 0.0
        self._failures = 0
        self._status: int | None = None
        self._follower: LocalServer | None = None
        self._forward: LocalServer | None = None

    @property
    def exit_status(self) -> int | None:
        """1 when a pod failed in a way that waiting does not cure; `waits_for` says how."""
        now = time.monotonic()
        if self._status is None and now - self._last_look > _POLL_S:
            self._last_look = now
            try:
                self._look()
                self._failures = 0
            except LaunchError:
                # One hiccup of the cluster's API must not end a start of ten minutes.
                self._failures += 1
                if self._failures >= _FAILURES:
                    raise
        return self._status

    def _look(self) -> None:
        every = self._cluster.pods(self._name)
        pods = [pod for pod in every if not pod.get("metadata", {}).get("deletionTimestamp")]
        running = ready = False
        for pod in pods:
            status = pod.get("status", {})
            self.waits_for = _waiting_reason(status) or "starting"
            ready = ready or is_ready(pod)
            for container in status.get("containerStatuses", []):
                state = container.get("state", {})
                running = running or "running" in state
                waiting = state.get("waiting", {}).get("reason", "")
                ended = state.get("terminated") or container.get("lastState", {}).get("terminated")
                if waiting in _FINAL_REASONS or ended:
                    ended = ended or {}
                    what = waiting or ended.get("reason", "ended")
                    words = ended.get("message") or state.get("waiting", {}).get("message", "")
                    self.waits_for = f"{what} {words}".strip()
                    self._status = int(ended.get("exitCode", 1) or 1)
        if not pods:
            self.waits_for = "no pod yet"
        if (running or self._status is not None) and self._follower is None:
            argv = self._cluster.log_argv(self._name, follow=self._status is None)
            withheld = self._cluster.program.withheld
            self._follower = LocalServer(argv, log=self.log, grace_s=1.0, withheld=withheld)
        if self._status is not None and self._follower is not None:
            self._follower.wait(_DRAIN_S)  # its last words are what matters
        if ready and (self._forward is None or self._forward.exit_status is not None):
            self._start_forward()

    def _start_forward(self) -> None:
        port = find_free_port()
        argv = self._cluster.program.argv(
            "port-forward", "--address", "127.0.0.1", f"service/{self._name}", f"{port}:{self._port}"
        )
        withheld = self._cluster.program.withheld
        self._forward = LocalServer(argv, log=Path(os.devnull), grace_s=1.0, withheld=withheld)
        self.url = f"http://127.0.0.1:{port}"

    def tail(self, lines: int = 15) -> tuple[str, ...]:
        """The last lines of the log; while there is none, what the pods are waiting for."""
        return read_tail(self.log, lines) or ((self.waits_for,) if self.waits_for else ())

    def close(self) -> None:
        """Stop copying the log and forwarding the port."""
        for program in (self._follower, self._forward):
            if program is not None:
                program.stop()


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod's readiness probe succeeds."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _waiting_reason(status: Mapping[str, Any]) -> str:
    """What a pod waits for, in the cluster's words."""
    for condition in status.get("conditions", []):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"not scheduled: {condition.get('message', '')}".strip()
    for container in status.get("containerStatuses", []):
        waiting = container.get("state", {}).get("waiting")
        if waiting:
            return f"{waiting.get('reason', 'waiting')} {waiting.get('message', '')}".strip()
    return ""
