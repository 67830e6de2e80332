"""A real vLLM server on the CPU, serving the recall checkpoint; its Python comes from FARSPAN_ENGINES_PYTHON."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from farspan.launch.local import LocalServer, find_free_port
from farspan.launch.readiness import wait_ready
from farspan.measurement.http.ready import find_missing
from farspan.models.probe import write_probe
from served import ENVIRONMENT, MAX_MODEL_LEN, ServedCheckpoint, vllm_command


@pytest.fixture(scope="session")
def engines_python() -> Path:
    named = os.environ.get("FARSPAN_ENGINES_PYTHON")
    assert named, "FARSPAN_ENGINES_PYTHON does not name the engines' Python; run make test-engines"
    assert Path(named).is_file(), f"{named} is not there; run make test-engines"
    return Path(named)


@pytest.fixture(scope="module")
def vllm(engines_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCheckpoint]:
    home = tmp_path_factory.mktemp("vllm")
    # Two heads rather than eight: the same code paths, at a quarter of the time on two cores.
    folder = write_probe(
        home / "recall",
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=MAX_MODEL_LEN,
    ).folder
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    command = vllm_command(engines_python, folder, port)
    log = home / "vllm.log"
    with LocalServer(command, log=log, environment=ENVIRONMENT, grace_s=20) as server:
        asyncio.run(wait_ready(server, lambda: find_missing(url), limit_s=400))
        yield ServedCheckpoint(url, folder)
