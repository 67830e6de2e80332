"""Manifests against Kubernetes' own schemas, and `farspan serve` through a played kubectl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner, Result

from farspan.cli.main import group
from farspan.launch.server_records import StateFolder
from played import Fakes

EVIDENCE = Path(__file__).resolve().parents[1] / "evidence"
SCOUT = (
    "serve",
    "llama-4-scout",
    "--gpus",
    "8xH200",
    "--offline",
    "--runtime",
    "kubernetes",
    "--name",
    "scout",
)
READY = {
    "conditions": [{"type": "Ready", "status": "True"}],
    "containerStatuses": [{"restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
}
RUNNING = {**READY, "conditions": [{"type": "Ready", "status": "False"}]}
PENDING = {
    "conditions": [
        {"type": "PodScheduled", "status": "False", "message": "0/4 nodes: 4 Insufficient nvidia.com/gpu."}
    ]
}
DEAD = {
    "containerStatuses": [{"restartCount": 0, "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]
}
NO_IMAGE = {
    "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}]
}


def farspan(*arguments: str) -> Result:
    return CliRunner().invoke(group, arguments, standalone_mode=False)  # as the farspan program does


def manifest(*arguments: str) -> list[dict[str, Any]]:
    done = farspan(*SCOUT, "--dry-run", "--context", "1M", *arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "&id" not in done.stdout
    return list(yaml.safe_load_all(done.stdout))


def validate(item: dict[str, Any]) -> None:
    """Against the schemas of several Kubernetes releases; strict: an unknown field is an error."""
    for version in ("1.26", "1.31", "1.35"):
        kubernetes_validate.validate(item, version, strict=True)


def container(workload: dict[str, Any]) -> dict[str, Any]:
    found = workload["spec"]["template"]["spec"]["containers"][0]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--volume", "pvc:models", "--hf-secret", "hf:token", "--key-secret", "keys:api"),
        (
            "--volume",
            "/data/hf",
            "--node-selector",
            "gpu=h200",
            "--node-selector",
            "zone=a",
            "--service-type",
            "NodePort",
        ),
        ("--volume", "pvc:m", "--volume-read-only", "--model-path", "/root/.cache/huggingface/hub/scout"),
    ],
)
def test_manifests_are_what_kubernetes_takes(engine: str, options: tuple[str, ...]) -> None:
    workload, service = manifest("--engine", engine, *options)
    validate(workload)
    validate(service)
    assert (workload["kind"], service["kind"]) == ("Deployment", "Service")
    pod = workload["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert workload["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert container(workload)["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    shm = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "11Gi"}


def test_the_schemas_would_notice() -> None:
    workload, _ = manifest()
    container(workload)["livenessProbe"]["failureTreshold"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(workload)
    workload, _ = manifest()
    workload["spec"]["replicas"] = "one"
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(workload)


def test_probes_follow_the_plan() -> None:
    known = ("--engine-version", "0.12.0")
    found = json.loads(farspan(*SCOUT, "--dry-run", "--json", "--context", "10M", *known).stdout)
    probes = container(found["manifest"][0])
    startup, live = probes["startupProbe"], probes["livenessProbe"]
    planned = sum(found["planned_start_s"].values())
    assert planned > 500  # 202 GiB at under half a gigabyte a second
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 3 * planned + 600 - 10
    ttft = found["plan"]["ttft_s"]["expected"]
    assert ttft > 3000
    assert live["periodSeconds"] * live["failureThreshold"] >= 1.5 * ttft
    assert live["httpGet"]["path"] == "/health"
    short = container(manifest("--context", "10k")[0])["livenessProbe"]
    assert 300 <= short["periodSeconds"] * short["failureThreshold"] < 400


def test_sglangs_liveness_never_generates() -> None:
    open_door = container(manifest("--engine", "sglang")[0])
    assert open_door["livenessProbe"]["httpGet"]["path"] == "/ping"
    assert {"name": "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION", "value": "0"} in open_door["env"]
    locked = container(manifest("--engine", "sglang", "--key-secret", "keys")[0])
    assert locked["livenessProbe"]["httpGet"]["path"] == "/health"
    reference = {"secretKeyRef": {"name": "keys", "key": "api-key"}}
    assert {"name": "SGLANG_API_KEY", "valueFrom": reference} in locked["env"]
    assert locked["command"][:2] == ["python3", "-c"]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_several_machines_are_a_leader_worker_set(engine: str) -> None:
    group_, service = manifest(
        *(
            "--engine",
            engine,
            "--nodes",
            "2",
            "--tp",
            "8",
            "--gpus",
            "4xH200",
            "--hf-secret",
            "hf",
            "--key-secret",
            "k",
        ),
    )
    assert (group_["apiVersion"], group_["kind"]) == ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet")
    assert set(group_["spec"]) == {"replicas", "leaderWorkerTemplate"}
    template = group_["spec"]["leaderWorkerTemplate"]
    assert set(template) == {"size", "restartPolicy", "leaderTemplate", "workerTemplate"}
    assert (template["size"], template["restartPolicy"]) == (2, "RecreateGroupOnPodRestart")
    for role in ("leaderTemplate", "workerTemplate"):
        pod = template[role]
        validate(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "x"},
                "spec": {"selector": {"matchLabels": pod["metadata"]["labels"]}, "template": pod},
            }
        )
    leader, worker = (
        template[role]["spec"]["containers"][0] for role in ("leaderTemplate", "workerTemplate")
    )
    assert leader["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert "startupProbe" in leader
    assert "startupProbe" not in worker
    rank = worker["args"][worker["args"].index("--node-rank") + 1]
    assert rank == "$(LWS_WORKER_INDEX)"
    assert any("$(LWS_LEADER_ADDRESS)" in word for word in leader["args"])
    assert ("--headless" in worker["args"]) is (engine == "vllm")
    assert service["spec"]["selector"] == {"leaderworkerset.sigs.k8s.io/name": "scout", "role": "leader"}
    validate(service)


def test_what_cannot_be_on_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    refusals = {
        ("--volume", "pvc:m", "--volume-read-only"): "read-only and the model is given by hub id",
        ("--volume", "models"): "is no volume",
        ("--api-key-env", "HOME"): "comes from a Secret",
        ("--engine", "builtin", "--gpus", "H200"): "no public image",
        ("--node-selector", "gpu"): "is no label",
    }
    for options, words in refusals.items():
        assert words in str(farspan(*SCOUT, "--dry-run", "--context", "1M", *options).exception), options


@pytest.mark.parametrize("kind", ["NodePort", "LoadBalancer"])
def test_a_door_out_of_the_cluster_is_said(kind: str) -> None:
    def warnings(*options: str) -> list[str]:
        done = farspan(*SCOUT, "--dry-run", "--json", "--context", "1M", *options)
        return [text for text in json.loads(done.stdout)["warnings"] if "outside the cluster" in text]

    assert len(warnings("--service-type", kind)) == 1
    assert warnings("--service-type", kind, "--key-secret", "keys:api") == []
    assert warnings() == []


def test_from_start_to_stop(fakes: Fakes) -> None:
    fakes.play(
        log=EVIDENCE / "real" / "vllm-0.24.0-scout-shard.log",
        pods=[PENDING, PENDING, RUNNING, RUNNING, READY],
    )
    done = farspan(*SCOUT, "--context", "1M", "--namespace", "llm", "--hf-secret", "hf")
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.return_value == 0
    assert "scout answers" in done.stderr
    assert "compile took" in done.stderr
    (apply,) = [call for call in fakes.calls if "apply" in call["argv"]]
    assert apply["argv"] == ["kubectl", "--namespace", "llm", "apply", "--filename", "-"]
    for item in yaml.safe_load_all(apply["stdin"]):
        validate(item)
        assert item["metadata"]["namespace"] == "llm"
    (forward,) = fakes.argv("kubectl", "port-forward")
    assert forward[-2] == "service/scout"
    assert forward[-1].endswith(":8000")
    assert farspan("status").stdout.splitlines()[1].split()[:3] == ["scout", "ready", "kubernetes"]
    assert "is there already" in str(farspan(*SCOUT, "--context", "1M", "--namespace", "llm").exception)
    assert farspan("stop", "scout").exit_code == 0
    (delete,) = fakes.argv("kubectl", "delete")
    assert delete[:6] == ["kubectl", "--namespace", "llm", "delete", "deployment,service", "--selector"]
    assert delete[6] == "app.kubernetes.io/instance=scout"
    assert StateFolder().records() == []


def test_a_pod_that_dies_is_diagnosed_and_removed(fakes: Fakes) -> None:
    fakes.play(log=EVIDENCE / "vllm-context-too-long.log", pods=[PENDING, RUNNING, DEAD])
    done = farspan(*SCOUT, "--context", "1M")
    assert done.return_value == 1
    assert "vllm-context-too-long" in done.stderr
    assert len(fakes.argv("kubectl", "delete")) == 1


def test_a_pod_that_never_can_start(fakes: Fakes, tmp_path: Path) -> None:
    (tmp_path / "empty.log").touch()
    fakes.play(log=tmp_path / "empty.log", pods=[PENDING, NO_IMAGE])
    done = farspan(*SCOUT, "--context", "1M")
    assert done.return_value == 1
    assert "ImagePullBackOff not found" in done.stderr
    assert len(fakes.argv("kubectl", "delete")) == 1


def test_no_room_for_the_pod_is_said_while_waiting(fakes: Fakes, tmp_path: Path) -> None:
    (tmp_path / "empty.log").touch()
    fakes.play(log=tmp_path / "empty.log", pods=[PENDING])
    done = farspan(*SCOUT, "--context", "1M", "--ready-limit", "5")
    assert done.return_value == 1
    assert "waiting: not scheduled: 0/4 nodes: 4 Insufficient nvidia.com/gpu." in done.stderr


def test_what_a_cluster_demands_of_its_pods_is_written() -> None:
    workload, _ = manifest(
        *("--runtime-class", "nvidia", "--memory-gib", "512", "--pull-secret", "registry"),
        *("--toleration", "nvidia.com/gpu:NoSchedule", "--toleration", "pool=gpu", "--run-as-user", "1000"),
    )
    validate(workload)
    pod = workload["spec"]["template"]["spec"]
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "pool", "operator": "Equal", "value": "gpu"},
    ]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    engine = container(workload)
    assert engine["resources"] == {
        "requests": {"memory": "512Gi"},
        "limits": {"nvidia.com/gpu": 8, "memory": "512Gi"},
    }
    assert engine["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"name": "HOME", "value": "/tmp"} in engine["env"]


def test_a_pod_has_no_more_rights_than_it_needs() -> None:
    workload, _ = manifest()
    assert container(workload)["securityContext"] == {"allowPrivilegeEscalation": False}
    assert workload["spec"]["template"]["spec"]["securityContext"] == {
        "seccompProfile": {"type": "RuntimeDefault"}
    }


@pytest.mark.parametrize("text", ["", "=x", "a=b:Sometimes", "a b"])
def test_a_taint_that_is_none_is_refused(text: str) -> None:
    done = farspan(*SCOUT, "--dry-run", "--context", "1M", "--toleration", text)
    assert "is no taint" in str(done.exception)


def test_a_model_path_on_the_machines_is_written_as_the_pod_sees_it() -> None:
    words = ("--volume", "/mnt/data/shared-models", "--volume-read-only")
    workload, _ = manifest(*words, "--model-path", "/mnt/data/shared-models/hub/scout")
    assert "/root/.cache/huggingface/hub/scout" in container(workload)["args"]


def test_k8s_is_kubernetes_in_any_case() -> None:
    words = [word if word != "kubernetes" else "K8s" for word in SCOUT]
    done = farspan(*words, "--dry-run", "--context", "1M")
    assert done.exit_code == 0, done.exception
    assert "kind: Deployment" in done.stdout
