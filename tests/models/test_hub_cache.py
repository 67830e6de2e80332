"""One finder of the Hugging Face cache, by huggingface_hub's rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan.models import catalog
from farspan.models.config import load_model
from farspan.models.hub_cache import find_checkpoint, find_snapshot, hub_cache, hub_home

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "/home/u"}, "/home/u/.cache/huggingface/hub"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "/c", "HF_HOME": "/h"}, "/h/hub"),
        ({"HF_HOME": "/h", "HF_HUB_CACHE": "/s"}, "/s"),
        ({"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HF_HUB_CACHE": "/new", "HUGGINGFACE_HUB_CACHE": "/old"}, "/new"),
    ],
)
def test_variables_are_heeded_in_huggingface_hubs_order(environment: dict[str, str], expected: str) -> None:
    assert hub_cache(environment) == Path(expected)


def test_the_home_is_beside_the_snapshots_unless_given() -> None:
    assert hub_home({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface")
    assert hub_home({"HF_HOME": "/h", "HF_HUB_CACHE": "/s"}) == Path("/h")


def _snapshot(cache: Path) -> Path:
    folder = cache / "models--owner--model"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    entry = catalog.find("qwen3-8b")
    assert entry is not None
    (snapshot / "config.json").write_text(json.dumps(entry.config()))
    return snapshot


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_a_plan_reads_the_config_from_wherever_the_cache_is(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    _snapshot(hub_cache())
    assert load_model("owner/model", allow_network=False).num_layers == 36


def test_a_snapshot_without_weights_has_a_config_but_is_no_checkpoint(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path)
    assert (
        find_snapshot(tmp_path, "owner/model") == find_snapshot(tmp_path, "owner/model", COMMIT) == snapshot
    )
    assert find_checkpoint(tmp_path, "owner/model") is None
    (snapshot / "model.safetensors").write_bytes(b"weights")
    assert find_checkpoint(tmp_path, "owner/model") == snapshot
