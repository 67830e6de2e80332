"""A server as the pods of a Kubernetes cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from farspan.launch.kubernetes import Cluster, ClusterServer
from farspan.launch.launch_spec import Launch
from farspan.launch.manifest import ClusterOptions, manifest_text, manifests
from farspan.launch.prepare_launch import PreparedLaunch
from farspan.launch.runtime import Running
from farspan.launch.server_records import StateFolder


class ClusterRuntime:
    """A Deployment or LeaderWorkerSet, and a Service."""

    def __init__(self, prepared: PreparedLaunch, options: ClusterOptions, context: str) -> None:
        self.launch = prepared.launch
        self._objects = manifests(prepared.launch, options, prepared.worker)
        self._cluster = Cluster(context, options.namespace, prepared.launch.secrets.values())
        self._several = prepared.worker is not None

    def describe(self) -> dict[str, object]:
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

    def record_fields(self, running: Running) -> dict[str, object]:  # noqa: ARG002
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
