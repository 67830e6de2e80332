"""Which version of an engine is meant: by a Python, a conda environment, or an image's tag."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from farspan.engines.registry import get_engine
from farspan.errors import InputError, MissingPackageError, NotFoundError, install_command
from farspan.launch import engine_python
from farspan.launch.engine_python import check_modules, find_python, tagged_version


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai:v0.12.0", "0.12.0"),
        ("vllm/vllm-openai:v0.33.0-cu129", "0.33.0"),
        ("lmsysorg/sglang:v0.5.6.post2-runtime", "0.5.6.post2"),
        ("registry.example:5000/team/sglang:0.5.23", "0.5.23"),
        ("vllm/vllm-openai:v0.12.0@sha256:" + "0" * 64, "0.12.0"),
    ],
)
def test_an_images_tag_says_its_version(image: str, version: str) -> None:
    assert tagged_version(image) == version


@pytest.mark.parametrize(
    "image",
    [
        "vllm/vllm-openai",
        "vllm/vllm-openai:latest",
        "registry.example:5000/vllm",
        "a/b:v12",
        "a/b:nightly-0.1.0",
    ],
)
def test_a_tag_that_does_not_say_it_is_refused(image: str) -> None:
    with pytest.raises(InputError, match="--engine-version"):
        tagged_version(image)


def make_python(folder: Path) -> Path:
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    return python


def test_a_conda_environment_is_found_by_name(tmp_path: Path) -> None:
    research = make_python(tmp_path / "miniconda3" / "envs" / "research")
    base = make_python(tmp_path / "miniconda3")
    environment = {"HOME": str(tmp_path), "PATH": ""}
    assert find_python("research", environment) == str(research)
    assert find_python("base", environment) == str(base)
    elsewhere = make_python(tmp_path / "disk" / "other")
    (tmp_path / ".conda").mkdir()
    (tmp_path / ".conda" / "environments.txt").write_text(f"{elsewhere.parent.parent}\n")
    assert find_python("other", environment) == str(elsewhere)
    root = make_python(tmp_path / "opt" / "envs" / "third")
    active = {**environment, "CONDA_PREFIX": str(tmp_path / "opt" / "envs" / "second")}
    assert find_python("third", active) == str(root)
    with pytest.raises(NotFoundError, match="neither a program nor a conda environment"):
        find_python("absent", environment)


def test_a_program_or_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    python = make_python(tmp_path / "env")
    environment = {"HOME": str(tmp_path), "PATH": str(python.parent)}
    assert find_python(str(python), environment) == str(python)
    assert find_python(str(tmp_path / "env"), environment) == str(python)
    assert find_python("python", environment) == str(python)
    with pytest.raises(NotFoundError, match="does not exist"):
        find_python(str(tmp_path / "nothing" / "python"), environment)
    with pytest.raises(NotFoundError, match="no bin/python"):
        find_python(str(tmp_path / "env" / "bin"), environment)


def test_an_engine_without_its_modules_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    check_modules(get_engine("builtin"))
    monkeypatch.setattr(engine_python, "find_spec", lambda name: None if name == "torch" else name)
    with pytest.raises(MissingPackageError, match=r"needs torch; pip install '.*\[builtin,report\]'"):
        check_modules(get_engine("builtin"))
    check_modules(get_engine("vllm"))


def test_the_install_command_names_where_farspan_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def __init__(self, url: str | None) -> None:
            self.url = url

        def read_text(self, name: str) -> str | None:
            return None if self.url is None else json.dumps({"url": self.url})

    checkout = tmp_path / "my farspan"
    checkout.mkdir()
    for url, target in (
        (checkout.as_uri(), str(checkout)),
        ((tmp_path / "gone").as_uri(), "farspan"),
        (None, "farspan"),
    ):
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name, url=url: Installed(url))
        assert install_command("report") == f"pip install '{target}[report]'"
