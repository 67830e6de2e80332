"""`farspan serve --elastic`: the plug-in's flags and variables on every runtime, and a Python or image without it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from farspan.cli.main import group
from farspan.engines.sglang.plugin_check import check_plugin
from farspan.errors import InputError, MissingPackageError, NotFoundError, UnsupportedError

BASE = (
    "serve",
    "llama-3.1-8b",
    "--gpus",
    "1xH200",
    "--context",
    "128k",
    "--offline",
    "--elastic",
    "--dry-run",
)
SGLANG = (*BASE, "--engine", "sglang", "--engine-version", "0.5.16")
IMAGE = ("--image", "me/sglang-farspan:v0.5.16")


@pytest.fixture(autouse=True)
def budget(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FARSPAN_BUDGET": "shared", "FARSPAN_BUDGET_LIMIT": "90GiB"}.items():
        monkeypatch.setenv(name, value)


def dry_run(*words: str) -> str:
    done = CliRunner().invoke(group, words, standalone_mode=False, catch_exceptions=False)
    assert not done.return_value
    return done.output


def test_docker_gets_flag_and_variables() -> None:
    output = dry_run(*SGLANG, "--runtime", "docker", *IMAGE)
    assert "--radix-cache-backend farspan" in output
    assert "--env FARSPAN_BUDGET=shared --env FARSPAN_BUDGET_LIMIT=90GiB" in output
    assert "Servers share the budget shared when they see the same folder FARSPAN_BUDGET_DIR" in output


def test_kubernetes_gets_flag_and_variables() -> None:
    found: dict[str, Any] = json.loads(dry_run(*SGLANG, "--runtime", "kubernetes", *IMAGE, "--json"))
    container = found["manifest"][0]["spec"]["template"]["spec"]["containers"][0]
    words = [*container.get("command", []), *container.get("args", [])]
    assert words[words.index("--radix-cache-backend") + 1] == "farspan"
    assert {"name": "FARSPAN_BUDGET", "value": "shared"} in container["env"]


def test_a_local_python_must_have_the_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site" / "farspan-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: farspan\nVersion: 0\n")
    entry = "[sglang.srt.plugins]\nfarspan = farspan.integrations.sglang.plugin:register\n"
    (installed / "entry_points.txt").write_text(entry)
    monkeypatch.setenv("PYTHONPATH", str(installed.parent))
    check_plugin(sys.executable)
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')  # no site-packages
    bare.chmod(0o755)
    with pytest.raises(
        MissingPackageError, match=r"needs farspan in the Python of SGLang, and .* has none; run"
    ):
        check_plugin(str(bare))
    with pytest.raises(NotFoundError, match="cannot be run"):
        check_plugin(str(tmp_path / "none"))


def test_a_public_image_has_no_plugin() -> None:
    with pytest.raises(
        UnsupportedError, match=r"needs farspan in the image, and lmsysorg/sglang:v0\.5\.16-runtime"
    ):
        dry_run(*SGLANG, "--runtime", "docker")


def test_variables_that_cannot_be_read_are_refused_before_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARSPAN_BUDGET_LIMIT", "much")
    with pytest.raises(InputError, match="FARSPAN_BUDGET_LIMIT: 'much'"):
        dry_run(*SGLANG, "--runtime", "docker", *IMAGE)


def test_what_is_given_by_hand_goes_before_the_environment() -> None:
    output = dry_run(*SGLANG, "--runtime", "docker", *IMAGE, "--", "FARSPAN_BUDGET=mine")
    assert "FARSPAN_BUDGET=mine" in output
    assert "FARSPAN_BUDGET=shared" not in output


def test_the_builtin_server_is_elastic_without_a_flag(tmp_path: Path) -> None:
    from farspan.models.probe import write_probe

    folder = write_probe(tmp_path / "probe").folder
    words = ("serve", str(folder), "--engine", "builtin", "--runtime", "local", "--gpus", "none", "--elastic")
    output = dry_run(*words, "--context", "8k", "--dry-run")
    assert "Its KV cache is always elastic: --elastic changes nothing." in output
    assert "radix" not in output


def test_vllm_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="vLLM has no elastic KV cache"):
        dry_run(*BASE, "--engine", "vllm")
