"""Kubernetes objects for one server: a Deployment, or a LeaderWorkerSet on several machines, and a Service."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
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
        runtime_class: The RuntimeClass of the pods; empty for the cluster's.
        tolerations: Taints of machines that are tolerated (see `parse_toleration`).
        memory_gib: Memory requested and allowed, GiB; 0 for none said.
        pull_secrets: Secrets that the image is pulled with.
        run_as_user: User and group the engine runs as; 0 for the image's own, which is root.
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
    runtime_class: str = ""
    tolerations: tuple[Mapping[str, str], ...] = ()
    memory_gib: int = 0
    pull_secrets: tuple[str, ...] = ()
    run_as_user: int = 0
    service_type: str = "ClusterIP"
    shm_gib: int = 0


def parse_toleration(text: str) -> Mapping[str, str]:
    """A toleration from KEY, KEY=VALUE, KEY:EFFECT or KEY=VALUE:EFFECT, as kubectl writes taints.

    Raises:
        InputError: It is none of these.
    """
    match = re.fullmatch(
        r"([A-Za-z0-9][\w./-]*)(?:=([\w.-]*))?(?::(NoSchedule|PreferNoSchedule|NoExecute))?", text
    )
    if match is None:
        raise InputError(
            f"--toleration {text!r} is no taint", "write it as nvidia.com/gpu, or pool=gpu:NoSchedule"
        )
    key, value, effect = match.groups()
    same = {"operator": "Exists"} if value is None else {"operator": "Equal", "value": value}
    return {"key": key, **same, **({"effect": effect} if effect else {})}


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
        "resources": _resources(launch, options),
        "securityContext": _container_security(launch, options),
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    if serves:
        container["ports"] = [{"name": "http", "containerPort": INSIDE_PORT}]
        container.update(_probes(launch, options))
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
    if options.runtime_class:
        spec["runtimeClassName"] = options.runtime_class
    if options.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in options.tolerations]
    if options.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in options.pull_secrets]
    spec["securityContext"] = _pod_security(options)
    return {"metadata": {"labels": dict(labels)}, "spec": spec}


def _resources(launch: Launch, options: ClusterOptions) -> dict[str, Any]:
    limits: dict[str, Any] = {"nvidia.com/gpu": launch.gpus} if launch.gpus else {}
    if not options.memory_gib:
        return {"limits": limits} if limits else {}
    memory = {"memory": f"{options.memory_gib}Gi"}
    return {"requests": memory, "limits": {**limits, **memory}}


def _container_security(launch: Launch, options: ClusterOptions) -> dict[str, Any]:
    """No more rights than the engine needs; ranks on several machines pin memory for the network."""
    add = ["IPC_LOCK"] if launch.nodes.count > 1 else []
    # Root keeps its capabilities: it must write to volumes that belong to others.
    drop = ["ALL"] if options.run_as_user else []
    capabilities = {**({"add": add} if add else {}), **({"drop": drop} if drop else {})}
    return {"allowPrivilegeEscalation": False, **({"capabilities": capabilities} if capabilities else {})}


def _pod_security(options: ClusterOptions) -> dict[str, Any]:
    profile = {"seccompProfile": {"type": "RuntimeDefault"}}
    user = options.run_as_user
    if not user:
        return profile
    return {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user, **profile}


def _environment(options: ClusterOptions, command: EngineCommand) -> list[dict[str, Any]]:
    env: list[dict[str, Any]] = [
        {"name": name, "value": value}
        for name, value in {"HF_HOME": CONTAINER_HOME, **_home(options), **command.env}.items()
    ]
    secrets = [(name, options.key_secret, "api-key") for name in command.secrets]
    if options.hf_secret:
        secrets.append(("HF_TOKEN", options.hf_secret, "token"))
    for name, reference, default_key in secrets:
        secret, _, key = reference.partition(":")
        env.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key or default_key}}})
    return env


def _home(options: ClusterOptions) -> dict[str, str]:
    """A home that another user than root can write to."""
    return {"HOME": "/tmp"} if options.run_as_user else {}


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
