from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan.errors import InputError
from farspan.launch import hubcache
from farspan.launch.hubcache import CONTAINER_HOME, find_model_files
from farspan.models.hub_cache import find_checkpoint, is_complete

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_snapshot(cache: Path, model: str = "owner/model", *, shards: int = 2, missing: int = 0) -> Path:
    """A repository as huggingface_hub lays it out: blobs, and a snapshot of links into them."""
    repository = cache / f"models--{model.replace('/', '--')}"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / COMMIT
    for folder in (blobs, snapshot, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    index = json.dumps({"weight_map": {f"w{number}": name for number, name in enumerate(names)}})
    contents = {"config.json": "{}", "model.safetensors.index.json": index, **dict.fromkeys(names, "weights")}
    for number, (name, text) in enumerate(contents.items()):
        if number < len(contents) - missing:
            (blobs / f"blob{number}").write_text(text)
        (snapshot / name).symlink_to(f"../../blobs/blob{number}")
    return snapshot


def test_a_complete_snapshot_is_given_by_path_read_only_and_offline(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "hub")
    files = find_model_files("owner/model", {"HF_HOME": str(tmp_path), "HF_TOKEN": "t"}, container=True)
    assert files.name == "owner/model"
    assert files.outside == str(snapshot)
    assert files.inside == f"{CONTAINER_HOME}/hub/models--owner--model/snapshots/{COMMIT}"
    (mount,) = files.mounts
    assert mount.host == snapshot.parent.parent  # the blobs the links lead to come along
    assert (mount.inside, mount.read_only) == (f"{CONTAINER_HOME}/hub/models--owner--model", True)
    assert files.env["HF_HUB_OFFLINE"] == "1"
    assert files.secrets == ()  # nothing to download, no token needed
    assert not files.downloads


def test_a_snapshots_own_path_brings_its_blobs_too(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "hub")
    files = find_model_files(str(snapshot), {})
    assert files.name == "owner/model"
    assert files.mounts[0].host == tmp_path / "hub" / "models--owner--model"
    assert files.inside.endswith(f"snapshots/{COMMIT}")


def test_an_interrupted_download_goes_on_in_a_writable_cache(tmp_path: Path) -> None:
    make_snapshot(tmp_path / "hub", missing=1)
    assert find_checkpoint(tmp_path / "hub", "owner/model") is None
    files = find_model_files("owner/model", {"HF_HOME": str(tmp_path), "HF_TOKEN": "t"}, container=True)
    assert files.inside == "owner/model"
    assert files.downloads
    assert files.secrets == ("HF_TOKEN",)
    assert [(mount.host, mount.read_only) for mount in files.mounts] == [(tmp_path, False)]
    elsewhere = {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "other")}
    assert [mount.inside for mount in find_model_files("owner/model", elsewhere).mounts] == [
        CONTAINER_HOME,
        f"{CONTAINER_HOME}/hub",
    ]


def test_a_read_only_cache_is_said_before_the_engine_dies_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"HF_HOME": str(tmp_path)}
    monkeypatch.setattr(hubcache, "is_writable", lambda folder: False)
    with pytest.raises(InputError, match="read-only") as caught:
        find_model_files("owner/model", environment, container=True)
    assert "hf download owner/model" in caught.value.fix
    make_snapshot(tmp_path / "hub")  # complete: nothing is written, so a read-only cache is as good
    assert find_model_files("owner/model", environment, container=True).mounts[0].read_only


def test_offline_and_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        find_model_files("owner/model", {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    with pytest.raises(InputError, match="neither a folder nor a hub id"):
        find_model_files("no-such-thing", {})


def test_a_plain_folder(tmp_path: Path) -> None:
    folder = tmp_path / "recall"
    folder.mkdir()
    files = find_model_files(str(folder), {})
    assert (files.name, files.inside) == ("recall", "/models/recall")
    assert files.mounts[0].read_only


def test_revisions_and_odd_checkpoints(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path)
    assert find_checkpoint(tmp_path, "owner/model", COMMIT) == snapshot
    assert find_checkpoint(tmp_path, "owner/model", "v2") is None
    (snapshot / "model.safetensors.index.json").unlink()
    (snapshot / "model.safetensors.index.json").write_text("not JSON")
    assert not is_complete(snapshot)
    single = tmp_path / "single"
    single.mkdir()
    (single / "config.json").write_text("{}")
    assert not is_complete(single)
    (single / "model.safetensors").write_text("")
    assert is_complete(single)
