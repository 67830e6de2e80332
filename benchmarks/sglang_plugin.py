"""A real SGLang with and without the plug-in at a 10M context, on one GPU: a table and JSON.

    python benchmarks/sglang_plugin.py --site SITE [-o plugin.json] [--contexts 100k,1M] [--only plugin]

SITE is a folder with SGLang 0.5.16's packages. The server gets `--context-length 10000000` and otherwise its default
flags, but for what `--flags` says: the kernels that are there. The model is the recall checkpoint, so that an answer is
right or wrong. First SGLang as it is (its end and the line that says why), then with the plug-in: the GPU's memory when
ready, with each prompt, and idle again; every prompt is sent twice, the second time out of the prefix cache.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from farspan.models.probe import vocabulary, write_probe
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.load_tokenizer import load_tokenizer
from farspan.sizes import parse_token_list

CONTEXT = 10_000_000
PORT = 31_877
ENTRY = "[sglang.srt.plugins]\nfarspan = farspan.integrations.sglang.plugin:register\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--contexts", type=parse_token_list, default=(100_000, 1_000_000))
    parser.add_argument(
        "--flags", default="--attention-backend triton --disable-cuda-graph --skip-server-warmup"
    )
    parser.add_argument("--start-s", type=float, default=240.0)
    parser.add_argument("--logs", type=Path, default=Path.cwd())
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--only", choices=["stock", "plugin"])
    arguments = parser.parse_args()
    answer: dict[str, Any] = {"flags": arguments.flags, "context": CONTEXT, "runs": {}}
    with tempfile.TemporaryDirectory() as home:
        model = checkpoint(Path(home))
        found = plugin_site(Path(home))
        for name, extra in (("stock", ""), ("plugin", "--radix-cache-backend farspan")):
            if arguments.only in (None, name):
                answer["runs"][name] = run(name, extra, model, found, arguments)
                print(name, json.dumps(answer["runs"][name], indent=1), flush=True)
                if arguments.output:
                    arguments.output.write_text(json.dumps(answer, indent=1))
    print(table(answer["runs"].get("plugin", {})))


def plugin_site(home: Path) -> Path:
    """Write what an installed farspan has, so that SGLang finds the plug-in; return the folder to put in the path."""
    site = home / "site"
    metadata = site / "farspan_plugin-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: farspan-plugin\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(ENTRY)
    return site


def _probe(home: Path, sizes: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Write the recall checkpoint, for the whole context unless `sizes` say otherwise; return its folder and config."""
    folder = write_probe(home / "recall", **{"max_position_embeddings": CONTEXT + 4096, **sizes}).folder
    return folder, json.loads((folder / "config.json").read_text())


def checkpoint(home: Path, **sizes: Any) -> Path:
    """Write the recall checkpoint in the form that SGLang's Llama 4 reads: the text part of a model with images."""
    folder, config = _probe(home, sizes)
    text = {key: value for key, value in config.items() if key != "architectures"}
    text["interleave_moe_layer_step"] = config["num_hidden_layers"] + 1
    vision = {
        "model_type": "llama4_vision_model",
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 256,
        "vision_output_dim": 64,
        "image_size": 28,
        "patch_size": 14,
        "projector_input_dim": 64,
        "projector_output_dim": 64,
    }
    config = {
        "architectures": ["Llama4ForConditionalGeneration"],
        "model_type": "llama4",
        "text_config": text,
        "vision_config": vision,
        "torch_dtype": config["torch_dtype"],
        "boi_token_index": 1,
        "eoi_token_index": 1,
        "image_token_index": 1,
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": config["eos_token_id"],
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    save_file(
        {f"language_model.{name}": each for name, each in weights.items()}, folder / "model.safetensors"
    )
    return folder


def recall(home: Path, **sizes: Any) -> Path:
    """Write the recall checkpoint as a text-only Llama 4, which SGLang keeps in one pool."""
    folder, config = _probe(home, sizes)
    config["interleave_moe_layer_step"] = config["num_hidden_layers"] + 1
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(name: str, extra: str, model: Path, found: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Start a server, ask it, stop it; return what was seen."""
    log = arguments.logs / f"sglang-{name}.log"
    command = [
        sys.executable,
        "-m",
        "sglang.launch_server",
        "--model-path",
        str(model),
        "--port",
        str(PORT),
        "--context-length",
        str(CONTEXT),
        *shlex.split(arguments.flags),
        *shlex.split(extra),
    ]
    paths = [str(found), str(Path(__file__).parents[1] / "src"), str(arguments.site)]
    # The triton backend reads this model's window layers by the slots of full attention: pools that differ are refused.
    environment = {"FARSPAN_KV_POOLS": "sglang", **os.environ}
    environment["PYTHONPATH"] = ":".join([*paths, *filter(None, [os.environ.get("PYTHONPATH", "")])])
    seen: dict[str, Any] = {"command": " ".join(command[1:]), "gpu_before": gpu_bytes(), "answers": []}
    begun = time.monotonic()
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        seen["ready"] = wait(server, begun + arguments.start_s)
        seen["seconds"] = round(time.monotonic() - begun, 1)
        if seen["ready"]:
            seen["gpu_ready"] = gpu_bytes()
            tokenizer = load_tokenizer(model)
            for context in arguments.contexts:
                prompt = build_prompt(tokenizer, tokens=context, depth=0.1, seed=context, output_tokens=8)
                for again in (False, True):
                    seen["answers"].append({"tokens": context, "again": again} | ask(prompt))
            time.sleep(25)
            seen["gpu_idle"] = gpu_bytes()
            seen["ready_at_the_end"] = server.poll() is None and get("/health") == 200
    finally:
        stop(server)
    lines = log.read_text("utf-8", "replace").splitlines()
    pattern = r"out of memory|OutOfMemory|farspan|max_total_num_tokens|leak|Traceback|Error:"
    seen["log"] = [line[:400] for line in lines if re.search(pattern, line)][-20:]
    seen["pool"] = next((line[:300] for line in lines if "max_total_num_tokens" in line), None)
    time.sleep(5)
    return seen


def stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ask(prompt: Any, port: int = PORT) -> dict[str, Any]:
    begun = time.monotonic()
    try:
        answer = generate(prompt.token_ids.tolist(), 8, 400, port)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        return {"error": str(error), "seconds": round(time.monotonic() - begun, 2)}
    words = vocabulary().tokens
    ids = answer.get("output_ids")
    text = " ".join(words[each] for each in ids) if ids else answer.get("text", "")
    meta = answer.get("meta_info", {})
    return {
        "right": prompt.score(text) == 1.0,
        "seconds": round(time.monotonic() - begun, 2),
        "prompt_tokens": meta.get("prompt_tokens"),
        "cached_tokens": meta.get("cached_tokens"),
        "gpu": gpu_bytes(),
    }


def generate(tokens: list[int], most: int, limit: float, port: int = PORT) -> Any:
    """Return SGLang's answer of `most` tokens to token ids."""
    body = {
        "input_ids": tokens,
        "sampling_params": {"max_new_tokens": most, "temperature": 0, "ignore_eos": True},
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=limit) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise OSError(f"{error}: {error.read(400).decode('utf-8', 'replace')}") from error


def wait(server: subprocess.Popen[bytes], until: float, port: int = PORT) -> bool:
    while time.monotonic() < until and server.poll() is None:
        if get("/health", port) == 200:
            return True
        time.sleep(1)
    return False


def get(path: str, port: int = PORT) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return int(response.status)
    except (urllib.error.URLError, TimeoutError, OSError):
        return 0


def gpu_bytes() -> int:
    """Return the memory in use on the first GPU, all processes together."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]) * 2**20


def table(seen: dict[str, Any]) -> str:
    lines = ["| tokens | again | right | cached | seconds | GPU, GiB |", "|---|---|---|---|---|---|"]
    for row in seen.get("answers", []):
        lines.append(
            f"| {row['tokens']:,} | {row['again']} | {row.get('right', row.get('error'))} | {row.get('cached_tokens')} "
            f"| {row['seconds']} | {row.get('gpu', 0) / 2**30:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
