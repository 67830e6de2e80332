"""A model as it lies on disk, in a container and in a cluster: found, or refused before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from farspan.cli.main import group
from farspan.engines.registry import get_engine
from farspan.errors import InputError, NotFoundError
from farspan.launch.expected import expect_start
from farspan.launch.hubcache import CONTAINER_HOME, find_model_files
from farspan.launch.model_location import describe_download, locate_model
from farspan.models.config import engine_model_name, keeps_weights_so, load_model
from farspan.sizes import GIB
from played import Fakes

COMMIT = "4bd10c4dc905b4000d76640d07a552344146faec"
SCOUT = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
CONFIG = json.dumps(
    {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "vocab_size": 1024,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
)


def make_repository(hub: Path, model: str = SCOUT, *, shards: int = 2, missing: int = 0) -> Path:
    repository = hub / f"models--{model.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    blobs = repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    names = [f"model-{number}.safetensors" for number in range(shards)]
    contents = {
        "config.json": CONFIG,
        "model.safetensors.index.json": json.dumps({"weight_map": {name: name for name in names}}),
        **dict.fromkeys(names[: shards - missing], "weights"),
    }
    for number, (name, text) in enumerate(contents.items()):
        (blobs / f"blob{number}").write_text(text)
        (snapshot / name).symlink_to(f"../../blobs/blob{number}")
    return snapshot


def serve(*words: str) -> Result:
    return CliRunner().invoke(group, ("serve", *words, "--dry-run", "--offline"), standalone_mode=False)


def test_a_repository_of_the_cache_is_its_snapshot(tmp_path: Path) -> None:
    snapshot = make_repository(tmp_path)
    repository = snapshot.parent.parent
    for path in (repository, repository / "snapshots", snapshot):
        assert engine_model_name(str(path)) == str(snapshot)
        assert load_model(str(path)).name == "llama-4-scout-17b-16e-instruct"
        files = find_model_files(str(path), {})
        assert files.name == SCOUT
        assert files.inside == f"{CONTAINER_HOME}/hub/{repository.name}/snapshots/{COMMIT}"


def test_a_repository_without_a_snapshot_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "models--owner--model" / "snapshots").mkdir(parents=True)
    with pytest.raises(NotFoundError, match="hf download owner/model"):
        load_model(str(tmp_path / "models--owner--model"))


def test_a_checkpoint_with_missing_files_is_refused_before_the_start(tmp_path: Path) -> None:
    snapshot = make_repository(tmp_path, missing=1)
    with pytest.raises(NotFoundError, match="lacks files") as caught:
        find_model_files(str(snapshot.parent.parent), {})
    assert f"hf download {SCOUT}" in caught.value.fix


def test_hf_home_set_to_the_hub_folder_still_finds_the_model(tmp_path: Path) -> None:
    snapshot = make_repository(tmp_path)
    files = find_model_files(SCOUT, {"HF_HOME": str(tmp_path)}, container=True)
    assert files.outside == str(snapshot)
    assert not files.downloads
    assert f"Set HF_HUB_CACHE={tmp_path}" in files.notes[0]


def test_hf_home_set_to_the_hub_folder_with_half_a_model_is_said(tmp_path: Path) -> None:
    make_repository(tmp_path, missing=1)
    with pytest.raises(NotFoundError, match="lies in HF_HOME itself") as caught:
        find_model_files(SCOUT, {"HF_HOME": str(tmp_path)}, container=True)
    assert f"set HF_HUB_CACHE={tmp_path}" in caught.value.fix


def test_a_download_is_announced_with_its_size_and_planned_for(fakes: Fakes) -> None:
    done = serve("llama-4-scout", "--gpus", "8xH200", "--context", "1M")
    assert done.exit_code == 0, done.output
    (said,) = [line for line in done.stderr.splitlines() if "will be downloaded first" in line]
    assert "202 GiB" in said
    assert "is gated and there is no token" in done.stderr
    spec, engine = load_model("llama-4-scout"), get_engine("vllm")
    here, away = expect_start(engine, spec, 8), expect_start(engine, spec, 8, downloads=True)
    assert away.total_s - here.total_s == pytest.approx(202.3 * GIB / 0.1e9, rel=0.01)
    assert away.limit_s > here.limit_s
    assert away.silence_s > here.silence_s
    assert "(assumed)" in away.basis


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, True),
        ({"HF_TOKEN": "hf_x"}, False),
        ({"HF_ENDPOINT": "https://mirror.example"}, False),
    ],
)
def test_a_gated_model_without_a_token_is_said(
    tmp_path: Path, environment: dict[str, str], says: bool
) -> None:
    environment = {"HF_HOME": str(tmp_path), **environment}
    files = find_model_files(SCOUT, environment)
    assert any("is gated" in line for line in describe_download(files, GIB, environment)) is says
    (tmp_path / "token").write_text("hf_x")  # what hf auth login leaves
    assert not any("is gated" in line for line in describe_download(files, GIB, environment))
    open_model = find_model_files("Qwen/Qwen3-8B", environment)
    assert len(describe_download(open_model, GIB, {"HF_HOME": str(tmp_path / "none")})) == 1


def test_a_disk_too_small_for_the_download_is_said(tmp_path: Path) -> None:
    environment = {"HF_HOME": str(tmp_path), "HF_TOKEN": "hf_x"}
    said = describe_download(find_model_files(SCOUT, environment), 2**60, environment)
    assert any("GiB free, less than that" in line for line in said)


@pytest.mark.parametrize(
    ("volume", "path", "inside"),
    [
        ("/mnt/models", "/mnt/models/hub/x/snapshots/1", f"{CONTAINER_HOME}/hub/x/snapshots/1"),
        ("/mnt/models/", "/mnt/models/hub/../scout", f"{CONTAINER_HOME}/scout"),
        ("/mnt/models", f"{CONTAINER_HOME}/scout", f"{CONTAINER_HOME}/scout"),
        ("pvc:models", "hub/x/snapshots/1", f"{CONTAINER_HOME}/hub/x/snapshots/1"),
        ("pvc:models", "./scout", f"{CONTAINER_HOME}/scout"),
        ("pvc:models", "owner/model", "owner/model"),
    ],
)
def test_a_path_in_the_volume_is_translated(volume: str, path: str, inside: str) -> None:
    files = locate_model("llama-4-scout", "kubernetes", {}, model_path=path, volume=volume)
    assert files.inside == inside
    assert files.name == SCOUT


@pytest.mark.parametrize(
    ("volume", "path"),
    [
        ("/mnt/models", "/mnt/modelsx/a"),
        ("/mnt/models", "/other"),
        ("pvc:m", "/data"),
        ("", "/data"),
        ("pvc:m", "../a/b"),
    ],
)
def test_a_path_that_is_not_in_the_pod_is_refused(volume: str, path: str) -> None:
    with pytest.raises(NotFoundError, match="is not in the container"):
        locate_model("llama-4-scout", "kubernetes", {}, model_path=path, volume=volume)
    kept = locate_model("llama-4-scout", "kubernetes", {}, model_path=path, volume=volume, own_container=True)
    assert kept.inside == path


def test_a_folder_of_this_machine_is_mounted_into_the_container(tmp_path: Path) -> None:
    (tmp_path / "scout").mkdir()
    (tmp_path / "scout" / "config.json").write_text("{}")
    files = locate_model("llama-4-scout", "docker", {}, model_path=str(tmp_path / "scout"))
    assert files.mounts[0].host == tmp_path / "scout"
    assert files.inside == "/models/scout"
    assert files.name == SCOUT
    with pytest.raises(NotFoundError):
        locate_model("llama-4-scout", "docker", {}, model_path="/nowhere/scout")
    own = locate_model("llama-4-scout", "docker", {}, model_path="/nowhere/scout", own_container=True)
    assert own.inside == "/nowhere/scout"


def test_planned_weights_that_are_not_the_checkpoints_are_not_started() -> None:
    assert keeps_weights_so("llama-4-scout", "bf16")
    assert not keeps_weights_so("llama-4-scout", "int4")
    words = ("llama-4-scout", "--gpus", "8xH200", "--context", "1M", "--weights", "int4")
    refused = serve(*words)
    assert isinstance(refused.exception, InputError)
    assert "--model-path" in str(refused.exception)
    taken = serve(*words, "--model-path", "owner/scout-int4", "--runtime", "kubernetes")
    assert taken.exit_code == 0, taken.exception
    assert "owner/scout-int4" in taken.stdout
