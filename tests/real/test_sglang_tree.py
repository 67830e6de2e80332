"""A real SGLang 0.5.23 on the CPU, with and without the plug-in: the same tokens, cold and from the prefix cache.

Its package is unpacked without dependencies, as for tests/engines/sglang; the engines' Python has what it needs to run
and stand-ins answer the rest, compiled kernels among it (`--attention-backend torch_native`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from farspan.launch.local import LocalServer, find_free_port
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.load_tokenizer import load_tokenizer
from sglang_site import site

ROOT = Path(__file__).resolve().parents[2]
# Prompts in chunks of 1,024 tokens, one longer than a window of 8,192.
PROMPTS = (1500, 9000)

pytestmark = pytest.mark.engines


def checkpoint(home: Path) -> Path:
    """Write the recall checkpoint as SGLang's Llama 4 reads it."""
    script = ROOT / "benchmarks" / "sglang_plugin.py"
    spec = importlib.util.spec_from_file_location("sglang_plugin", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Path = module.checkpoint(home)
    return made


def answers(python: Path, model: Path, found: Path, log: Path, *options: str) -> list[dict[str, Any]]:
    """Serve, send each prompt twice, and return what came back."""
    port = find_free_port()
    parent = Path(os.environ.get("FARSPAN_SGLANG_SOURCE", ROOT))
    flags = "--device cpu --attention-backend torch_native --dtype float32 --context-length 20000 "
    flags += (
        "--max-total-tokens 24000 --max-running-requests 2 --chunked-prefill-size 1024 --skip-server-warmup"
    )
    command = [str(python), "-W", "ignore", "-m", "sglang.launch_server", "--model-path", str(model)]
    command += [*flags.split(), "--port", str(port), *options]
    paths = [found, parent / ".sglang-0.5.23", ROOT / "src"]
    environment = {"PYTHONPATH": ":".join(map(str, paths)), "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1"}
    prompts = [
        build_prompt(load_tokenizer(model), tokens=tokens, depth=0.1, seed=tokens, output_tokens=8)
        for tokens in PROMPTS
    ]
    seen = []
    with LocalServer(command, log=log, environment=environment, grace_s=20) as server:
        wait(server, f"http://127.0.0.1:{port}/model_info", log)
        for prompt in prompts:
            for _ in range(2):
                sampling = {"max_new_tokens": 8, "temperature": 0, "ignore_eos": True}
                body = {"input_ids": prompt.token_ids.tolist(), "sampling_params": sampling}
                answer = post(f"http://127.0.0.1:{port}/generate", body)
                cached = answer["meta_info"]["cached_tokens"]
                seen.append({"ids": answer["output_ids"], "cached": cached})
        time.sleep(3)  # idle: SGLang's checks of its pools and of the tree run
        assert server.exit_status is None
    return seen


def wait(server: LocalServer, url: str, log: Path) -> None:
    until = time.monotonic() + 400
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert server.exit_status is None, log.read_text("utf-8", "replace")[-3000:]
            assert time.monotonic() < until, "SGLang did not start in time"
            time.sleep(1)


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=400) as response:
        return json.load(response)


def test_a_server_answers_the_same_with_farspans_tree(engines_python: Path, tmp_path: Path) -> None:
    model, found = checkpoint(tmp_path), site(tmp_path / "site")
    logs = [tmp_path / "sglang.log", tmp_path / "farspan.log"]
    sglangs = answers(engines_python, model, found, logs[0])
    ours = answers(engines_python, model, found, logs[1], "--radix-cache-backend", "farspan")
    assert ours == sglangs
    assert [each["cached"] for each in ours[1::2]] == [tokens - 1 for tokens in PROMPTS]
    text = logs[1].read_text("utf-8", "replace")
    assert "the prefix tree is farspan's, a window of 8,192 tokens" in text
    assert "leak" not in text
