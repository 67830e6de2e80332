from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from farspan.errors import NotFoundError
from farspan.measurement.http.target import ServerInfo
from farspan.measurement.server_tokenizer import load_server_tokenizer
from farspan.models.probe import write_probe
from farspan.prompts.hub_tokenizer import find_hub_tokenizer
from farspan.prompts.load_tokenizer import load_tokenizer

HUB_ID = "someone/recall"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "recall"
    write_probe(folder)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


def fill(cache: Path, checkpoint: Path) -> Path:
    repository = cache / "models--someone--recall"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    snapshot = repository / "snapshots" / "abc"
    snapshot.symlink_to(checkpoint)
    return snapshot


def served(root: str | None, url: str = "http://127.0.0.1:1") -> ServerInfo:
    return ServerInfo(url, "m", root=root)


def test_a_folder_of_this_machine_is_taken(checkpoint: Path) -> None:
    tokenizer, source = load_server_tokenizer(served(str(checkpoint)), None)
    assert source == str(checkpoint)
    assert tokenizer.fingerprint == load_server_tokenizer(served(None), checkpoint)[0].fingerprint


def test_a_hub_id_is_found_in_the_cache(cache: Path, checkpoint: Path) -> None:
    snapshot = fill(cache, checkpoint)
    assert find_hub_tokenizer(HUB_ID) == snapshot
    for server, given in ((served(HUB_ID), None), (served(None), HUB_ID)):
        tokenizer, source = load_server_tokenizer(server, given)
        assert str(snapshot) in source
        assert tokenizer.fingerprint


def test_a_tokenizer_is_loaded_as_people_name_it(cache: Path, checkpoint: Path) -> None:
    fill(cache, checkpoint)
    known = load_tokenizer(checkpoint).fingerprint
    assert load_tokenizer(HUB_ID).fingerprint == known
    assert load_tokenizer(cache / "models--someone--recall").fingerprint == known
    with pytest.raises(NotFoundError, match="HF_HUB_OFFLINE is set"):
        load_tokenizer("someone/else")
    with pytest.raises(NotFoundError, match="no tokenizer of meta-llama/Llama-4-Scout-17B-16E-Instruct, and"):
        load_tokenizer("llama-4-scout")  # a catalog name stands for its hub id
    with pytest.raises(NotFoundError, match="a hub id"):
        load_tokenizer("nothing")


def test_what_the_cache_has_not_comes_from_the_hub(
    cache: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(model: str, *, allow_patterns: list[str]) -> str:
        assert "tokenizer*" in allow_patterns
        asked.append(model)
        return str(checkpoint)

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    tokenizer, _ = load_server_tokenizer(served(HUB_ID), None)
    assert asked == [HUB_ID]
    assert tokenizer.fingerprint
    assert not cache.exists()


@pytest.mark.usefixtures("cache")
def test_last_comes_the_servers_own(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    loaded: list[Any] = []
    local = load_server_tokenizer(served(None), checkpoint)[0]

    def load(source: Any, *, api_key: str | None = None) -> Any:
        assert api_key == "k"
        loaded.append(source)
        return local

    monkeypatch.setattr("farspan.measurement.server_tokenizer.load_tokenizer", load)
    tokenizer, source = load_server_tokenizer(served("meta-llama/Scout", "http://h:1"), None, api_key="k")
    assert tokenizer is local
    assert source == "http://h:1"
    assert loaded == ["http://h:1"]


@pytest.mark.usefixtures("cache")
def test_what_was_tried_is_told() -> None:
    with pytest.raises(NotFoundError, match=r"meta-llama/Scout.*HF_HUB_OFFLINE.*--tokenizer") as caught:
        load_server_tokenizer(served("meta-llama/Scout"), None)
    assert "127.0.0.1:1" in str(caught.value), "the server's /tokenize too"
    with pytest.raises(NotFoundError):
        load_server_tokenizer(served(None), "meta-llama/Scout")


@pytest.mark.usefixtures("cache")
def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: str, **_: Any) -> str:
        raise RuntimeError(f"no {model}\nat all")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(NotFoundError, match=r"no someone/recall at all.*HF_TOKEN"):
        find_hub_tokenizer(HUB_ID)
