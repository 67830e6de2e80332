"""A real vLLM server on the CPU, serving the recall checkpoint; its Python comes from FARSPAN_ENGINES_PYTHON."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine_environment import ENVIRONMENT
from farspan.bench.ready import find_missing
from farspan.launch.local import LocalServer, find_free_port
from farspan.launch.readiness import wait_ready
from farspan.models.probe import write_probe
from served import MAX_MODEL_LEN, ServedCheckpoint


@pytest.fixture(scope="session")
def engines_python() -> Path:
    named = os.environ.get("FARSPAN_ENGINES_PYTHON")
    assert named, "FARSPAN_ENGINES_PYTHON does not name the engines' Python; run make test-engines"
    assert Path(named).is_file(), f"{named} is not there; run make test-engines"
    return Path(named)


@pytest.fixture(scope="session")
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
    command = [
        *(str(engines_python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", "recall"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", str(MAX_MODEL_LEN), "--enforce-eager", "--enable-prompt-tokens-details"),
        # float32: processors without bf16 instructions are a fifth faster with it
        *("--dtype", "float32"),
    ]
    log = home / "vllm.log"
    with LocalServer(command, log=log, environment=ENVIRONMENT, grace_s=20) as server:
        asyncio.run(wait_ready(server, lambda: find_missing(url), limit_s=400))
        yield ServedCheckpoint(url, folder)
