"""The manifest of docs/kv-budget.md, two models on one GPU, against Kubernetes' schemas and farspan's own reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from farspan.engines.sglang.known_names import flags_of
from farspan.integrations.sglang.plugin import BACKEND
from farspan.kv.memory.budget.budget_file import budget_folder
from farspan.kv.memory.budget.settings import budget_settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
ITEMS: list[dict[str, Any]] = list(
    yaml.safe_load_all((DOCS / "kubernetes" / "two-models-one-gpu.yaml").read_text())
)
POD: dict[str, Any] = next(item for item in ITEMS if item["kind"] == "Deployment")["spec"]["template"]["spec"]


@pytest.mark.parametrize("item", ITEMS, ids=[item["kind"] for item in ITEMS])
@pytest.mark.parametrize("release", ["1.34", "1.36"])
def test_kubernetes_takes_it(item: dict[str, Any], release: str) -> None:
    kubernetes_validate.validate(item, release, strict=True)


def test_both_containers_have_the_same_gpu_and_the_same_budget() -> None:
    first, second = POD["containers"]
    assert first["env"] == second["env"]
    assert first["volumeMounts"] == second["volumeMounts"]
    assert first["resources"] == second["resources"] == {"claims": [{"name": "gpu"}]}
    assert [claim["name"] for claim in POD["resourceClaims"]] == ["gpu"]


@pytest.mark.parametrize("container", POD["containers"], ids=[one["name"] for one in POD["containers"]])
def test_each_container_is_started_as_the_plugin_wants(container: dict[str, Any]) -> None:
    environment = {one["name"]: one["value"] for one in container["env"]}
    settings = budget_settings(environment)
    assert settings is not None
    assert settings.limit is not None
    assert 2 * settings.floor <= settings.limit
    # Not the volume itself, which everybody in the pod may write to: a folder in it.
    assert budget_folder(environment).parent == Path(container["volumeMounts"][0]["mountPath"])
    flags = dict(word.partition("=")[::2] for word in container["args"])
    assert flags["--radix-cache-backend"] == BACKEND
    assert flags["--served-model-name"] == container["name"]
    version = container["image"].rpartition(":")[2]
    assert flags.keys() <= flags_of(version) | {"--host", "--port", "--served-model-name", "--model-path"}


def test_the_service_names_both() -> None:
    service = next(item for item in ITEMS if item["kind"] == "Service")
    names = [port["name"] for container in POD["containers"] for port in container["ports"]]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == names
