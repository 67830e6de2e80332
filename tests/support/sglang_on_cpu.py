"""SGLang 0.5.23 on the CPU, in the engines' Python: what Python must find, a checkpoint, and a server with it.

Its package is unpacked without dependencies, as for tests/engines/sglang; the engines' Python has what it needs to run
and stand-ins answer the rest, compiled kernels among it (`--attention-backend torch_native`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from farspan.launch.local import LocalServer, find_free_port
from load_benchmark import load_benchmark

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = 20_000
FLAGS = (
    f"--device cpu --attention-backend torch_native --dtype float32 --context-length {CONTEXT} "
    "--max-running-requests 2 --chunked-prefill-size 1024 --skip-server-warmup"
)


def site(folder: Path) -> Path:
    """Write what Python finds when it starts: the stand-ins, what an installed farspan has, and versions."""
    folder.mkdir()
    stubs = ROOT / "tests" / "engines" / "sglang"
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(stubs)!r})\nfrom stubs import install\ninstall('sglang')\n"
    )
    entry = "[sglang.srt.plugins]\nfarspan = farspan.integrations.sglang.plugin:register\n"
    for name in ("farspan_plugin", "torchcodec", "torchvision", "torchaudio", "soundfile"):
        metadata = folder / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if name == "farspan_plugin":
            (metadata / "entry_points.txt").write_text(entry)
    return folder


def checkpoint(home: Path, *, pools: int, heads: int) -> Path:
    """Write the recall checkpoint as a Llama 4 whose window layers have a pool of their own, or have not."""
    module = load_benchmark("sglang_plugin")
    # SGLang makes its table of rotary embeddings for every position the model may have.
    sizes = {"max_position_embeddings": CONTEXT, "num_attention_heads": heads, "num_key_value_heads": heads}
    made: Path = (module.checkpoint if pools == 2 else module.recall)(home, **sizes)
    return made


def run_process(version: str, script: Path, *arguments: str, timeout_s: float, **variables: str) -> str:
    """Run a script of tests/engines/sglang that is given a version and its folder; return the last line it writes.

    What 0.5.23's scheduler imports cannot be stood in for, and the engines' Python has it.
    """
    package = Path(os.environ.get("FARSPAN_SGLANG_SOURCE", ROOT)) / f".sglang-{version}"
    with TemporaryDirectory() as home:
        python, paths = sys.executable, [ROOT / "src"]
        if version != "0.5.16":
            python = os.environ["FARSPAN_ENGINES_PYTHON"]
            paths += [site(Path(home) / "site"), package]
        done = subprocess.run(
            [python, "-W", "ignore", str(script), version, str(package), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, "PYTHONPATH": ":".join(map(str, paths)), **variables},
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


class RunningServer(NamedTuple):
    """A server that answers, and whether it still runs."""

    url: str
    process: LocalServer

    def answer(self, token_ids: list[int]) -> dict[str, Any]:
        """Return eight tokens behind a prompt, and how many of the prompt's were cached."""
        sampling = {"max_new_tokens": 8, "temperature": 0, "ignore_eos": True}
        answer = self.post("/generate", {"input_ids": token_ids, "sampling_params": sampling})
        return {"ids": answer["output_ids"], "cached": answer["meta_info"]["cached_tokens"]}

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=400) as response:
            return json.load(response)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return str(response.read().decode())


@contextmanager
def serve(
    python: Path, model: Path, found: Path, log: Path, options: str, **variables: str
) -> Iterator[RunningServer]:
    """Serve a checkpoint with SGLang's checks of every step on; `found` is of `site`."""
    port = find_free_port()
    package = Path(os.environ.get("FARSPAN_SGLANG_SOURCE", ROOT)) / ".sglang-0.5.23"
    command = [str(python), "-W", "ignore", "-m", "sglang.launch_server", "--model-path", str(model)]
    command += [*FLAGS.split(), "--port", str(port), *options.split()]
    environment = {
        "PYTHONPATH": ":".join(map(str, (found, package, ROOT / "src"))),
        "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1",
        # It takes being stopped for a crash, and would wait 5 s before it looks for what to dump.
        "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0",
        "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",
        "OMP_WAIT_POLICY": "passive",
        **variables,
    }
    with LocalServer(command, log=log, environment=environment, grace_s=20) as server:
        running = RunningServer(f"http://127.0.0.1:{port}", server)
        _wait(running, log)
        yield running
        assert server.exit_status is None


def _wait(server: RunningServer, log: Path) -> None:
    until = time.monotonic() + 400
    while True:
        try:
            server.get("/model_info")
            return
        except (urllib.error.URLError, OSError):
            assert server.process.exit_status is None, log.read_text("utf-8", "replace")[-3000:]
            assert time.monotonic() < until, "SGLang did not start in time"
            time.sleep(1)
