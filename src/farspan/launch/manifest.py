"""Kubernetes objects for one server: a Deployment, or a LeaderWorkerSet on several machines, and a Service."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import yaml

from farspan.engines.command import EngineCommand
from farspan.errors import InputError
from farspan.launch.hubcache import CONTAINER_HOME
from farspan.launch.launch_spec import INSIDE_PORT, Launch, digest, shm_bytes
from farspan.sizes import GIB

LWS_LEADER = "$(LWS_LEADER_ADDRESS)"
LWS_RANK = "$(LWS_WORKER_INDEX)"
_PROBE_S = 10
_LIVE_S = 30
_LIVE_LEAST_S = 300.0  # tokenizing 10M words keeps an HTTP process busy for over a minute
_LIVE_MARGIN = 1.5
INSTANCE = "app.kubernetes.io/instance"


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What only Kubernetes needs.

    Args:
        image: The image.
        namespace: Where everything goes.
        volume: Where models are kept: "pvc:NAME" or a folder of the machines; empty for the pod's own disk.
        volume_read_only: Whether the volume is mounted read-only.
        hf_secret: NAME or NAME:KEY of the Secret that holds HF_TOKEN; empty for none.
        key_secret: NAME or NAME:KEY of the Secret that holds the API key; empty for none.
        node_selector: Labels a machine must have.
        service_type: "ClusterIP", "NodePort" or "LoadBalancer".
        shm_gib: Size of /dev/shm in GiB; 0 for the plan's.
    """

    image: str
    namespace: str = "default"
    volume: str = ""
    volume_read_only: bool = False
    hf_secret: str = ""
    key_secret: str = ""
    node_selector: tuple[tuple[str, str], ...] = ()
    service_type: str = "ClusterIP"
    shm_gib: int = 0


def manifests(
    launch: Launch, options: ClusterOptions, worker: EngineCommand | None = None
) -> list[dict[str, Any]]:
    """The objects, as kubectl takes them.

    Args:
        launch: The server; its command is the first machine's.
        options: The cluster's.
        worker: The command of every other machine; None for one machine.

    Raises:
        InputError: The model would be downloaded into a read-only volume.
    """
    if options.volume and options.volume_read_only and not launch.files.inside.startswith("/"):
        raise InputError(
            "the volume is read-only and the model is given by hub id: the engine writes to its cache and dies",
            "name the snapshot's folder inside the volume with --model-path, or mount it writable",
        )
    labels = {"app.kubernetes.io/name": "farspan", INSTANCE: launch.name}
    if worker is None:
        selector = labels
        workload = _deployment(launch, options, labels)
    else:
        selector = {"leaderworkerset.sigs.k8s.io/name": launch.name, "role": "leader"}
        workload = _leader_worker_set(launch, options, worker, labels)
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(launch, options, labels),
        "spec": {
            "type": options.service_type,
            "selector": selector,
            "ports": [{"name": "http", "port": launch.port, "targetPort": "http", "protocol": "TCP"}],
        },
    }
    mark = digest([workload, service])
    for item in (workload, service):
        item["metadata"]["annotations"] = {"farspan/digest": mark}
    return [workload, service]


def manifest_text(objects: list[dict[str, Any]]) -> str:
    """The objects as one YAML stream."""
    return yaml.safe_dump_all(objects, sort_keys=False, width=110)


def startup_failures(launch: Launch) -> int:
    """How often the startup probe may fail: until the limit of the start, which comes from its planned time."""
    return math.ceil(launch.expected.limit_s / _PROBE_S)


def live_failures(launch: Launch) -> int:
    """How often the liveness probe may fail in a row: for longer than the longest prompt takes to its first token."""
    time = launch.plan.time if launch.plan else None
    longest = time.ttft_expected_s * _LIVE_MARGIN if time else 0.0
    return math.ceil(max(_LIVE_LEAST_S, longest) / _LIVE_S)


def _metadata(launch: Launch, options: ClusterOptions, labels: dict[str, str]) -> dict[str, Any]:
    return {"name": launch.name, "namespace": options.namespace, "labels": dict(labels)}


def _deployment(launch: Launch, options: ClusterOptions, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(launch, options, labels),
        "spec": {
            "replicas": 1,
            # The old pod holds the GPUs the new one needs.
            "strategy": {"type": "Recreate"},
            # A start that takes as long as planned is not a failed one.
            "progressDeadlineSeconds": math.ceil(launch.expected.limit_s) + 600,
            "selector": {"matchLabels": dict(labels)},
            "template": _pod(launch, options, launch.command, labels, serves=True),
        },
    }


def _leader_worker_set(
    launch: Launch, options: ClusterOptions, worker: EngineCommand, labels: dict[str, str]
) -> dict[str, Any]:
    leader = _pod(launch, options, launch.command, {**labels, "role": "leader"}, serves=True)
    follower = _pod(launch, options, worker, {**labels, "role": "worker"}, serves=False)
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": _metadata(launch, options, labels),
        "spec": {
            "replicas": 1,
            "leaderWorkerTemplate": {
                "size": launch.nodes.count,
                # One rank lost is all of them lost.
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": leader,
                "workerTemplate": follower,
            },
        },
    }


def _pod(
    launch: Launch, options: ClusterOptions, command: EngineCommand, labels: dict[str, str], *, serves: bool
) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "engine",
        "image": options.image,
        "command": list(command.program),
        "args": list(command.arguments),
        "env": _environment(options, command),
        "resources": {"limits": {"nvidia.com/gpu": launch.gpus}} if launch.gpus else {},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    if serves:
        container["ports"] = [{"name": "http", "containerPort": INSIDE_PORT}]
        container.update(_probes(launch, options))
    if launch.nodes.count > 1:
        container["securityContext"] = {"capabilities": {"add": ["IPC_LOCK"]}}
    shm = options.shm_gib or shm_bytes(launch.context, max(launch.gpus, 1)) // GIB
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shm}Gi"}},
        {"name": "models", **_volume(options)},
    ]
    container["volumeMounts"].append(
        {
            "name": "models",
            "mountPath": CONTAINER_HOME,
            **({"readOnly": True} if options.volume_read_only else {}),
        }
    )
    spec: dict[str, Any] = {
        "containers": [container],
        "volumes": volumes,
        "terminationGracePeriodSeconds": 120,
        "automountServiceAccountToken": False,
        # A Service called vllm would otherwise set VLLM_PORT=tcp://..., which vLLM reads as its own.
        "enableServiceLinks": False,
    }
    if options.node_selector:
        spec["nodeSelector"] = dict(options.node_selector)
    return {"metadata": {"labels": dict(labels)}, "spec": spec}


def _environment(options: ClusterOptions, command: EngineCommand) -> list[dict[str, Any]]:
    env: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in {"HF_HOME": CONTAINER_HOME, **command.env}.items()
    ]
    secrets = [(name, options.key_secret, "api-key") for name in command.secrets]
    if options.hf_secret:
        secrets.append(("HF_TOKEN", options.hf_secret, "token"))
    for name, reference, default_key in secrets:
        secret, _, key = reference.partition(":")
        env.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key or default_key}}})
    return env


def _probes(launch: Launch, options: ClusterOptions) -> dict[str, Any]:
    """Startup by the planned load time; liveness longer than any prefill, on a path that does not wait for one."""
    get = {"path": launch.engine.live_path(with_key=bool(options.key_secret)), "port": "http"}
    health = {"path": "/health", "port": "http"}
    return {
        "startupProbe": {
            "httpGet": health,
            "periodSeconds": _PROBE_S,
            "timeoutSeconds": 5,
            "failureThreshold": startup_failures(launch),
        },
        "readinessProbe": {
            "httpGet": dict(health),
            "periodSeconds": _PROBE_S,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "livenessProbe": {
            "httpGet": get,
            "periodSeconds": _LIVE_S,
            "timeoutSeconds": 10,
            "failureThreshold": live_failures(launch),
        },
    }


def _volume(options: ClusterOptions) -> dict[str, Any]:
    if not options.volume:
        return {"emptyDir": {}}
    if options.volume.startswith("pvc:"):
        claim = {"claimName": options.volume.removeprefix("pvc:"), "readOnly": options.volume_read_only}
        return {"persistentVolumeClaim": claim}
    if options.volume.startswith("/"):
        return {"hostPath": {"path": options.volume, "type": "Directory"}}
    raise InputError(
        f"--volume {options.volume!r} is no volume", "write pvc:NAME, or an absolute folder of the machines"
    )
