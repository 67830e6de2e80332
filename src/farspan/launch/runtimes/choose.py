"""The runtime a prepared server asks for."""

from __future__ import annotations

from farspan.launch.docker import DockerOptions
from farspan.launch.manifest import ClusterOptions
from farspan.launch.prepare_launch import PreparedLaunch
from farspan.launch.runtime import Runtime
from farspan.launch.runtimes.cluster import ClusterRuntime
from farspan.launch.runtimes.container import DockerRuntime
from farspan.launch.runtimes.process import LocalRuntime


def choose_runtime(
    prepared: PreparedLaunch, docker: DockerOptions, cluster: ClusterOptions, context: str = ""
) -> Runtime:
    """The runtime of a prepared server."""
    if prepared.launch.runtime == "docker":
        return DockerRuntime(prepared.launch, docker)
    if prepared.launch.runtime == "kubernetes":
        return ClusterRuntime(prepared, cluster, context)
    return LocalRuntime(prepared.launch)
