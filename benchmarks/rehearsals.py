"""Rehearse what docs/rehearsals.md shows, one case at a time, on a machine with one GPU and the engines.

    python benchmarks/rehearsals.py scout-vllm llama70-vllm --out rehearsed --vllm ~/vllm/bin/python

Each case is one `farspan rehearse`; one that fails is kept with its log, and the next one's turn comes. A case that is
done is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
VLLM_FLAGS = "VLLM_USE_FLASHINFER_SAMPLER=0 --enforce-eager"
VLLM_GRAPHS = "VLLM_USE_FLASHINFER_SAMPLER=0"
# A row of 10M tokens for each of 1024 requests would take 9.5 GiB of block tables.
FEW_REQUESTS = " --max-num-seqs 64"
SGLANG_FLAGS = "--attention-backend triton --disable-cuda-graph --skip-server-warmup"


@dataclass(frozen=True)
class Case:
    """One rehearsal: the model, how it is divided, the engine and what it is asked."""

    model: str
    engine: str
    arguments: str
    flags: str
    limit_s: int = 300


CASES = {
    "scout-vllm": Case(
        "llama-4-scout", "vllm", "--tp 8 --contexts 8k,64k,256k,1M --context 10M", VLLM_FLAGS + FEW_REQUESTS
    ),
    "scout-sglang": Case(
        "llama-4-scout", "sglang", "--tp 8 --contexts 8k,64k,256k --context 2M", SGLANG_FLAGS
    ),
    "scout-vllm-fp8": Case(
        "llama-4-scout",
        "vllm",
        "--tp 8 --contexts 8k,64k,256k,1M --context 10M --kv-dtype fp8",
        VLLM_FLAGS + FEW_REQUESTS,
    ),
    "scout-sglang-fp8": Case(
        "llama-4-scout", "sglang", "--tp 8 --contexts 8k,64k,256k --context 10M --kv-dtype fp8_e4m3", SGLANG_FLAGS
    ),
    "scout-vllm-graphs": Case(
        "llama-4-scout", "vllm", "--tp 8 --contexts 8k,64k,256k --context 10M", VLLM_GRAPHS + FEW_REQUESTS, 420
    ),
    "llama70-vllm": Case(
        "llama-3.1-70b", "vllm", "--tp 8 --contexts 8k,32k,128k --context 131072", VLLM_FLAGS
    ),
    "llama70-sglang": Case(
        "llama-3.1-70b", "sglang", "--tp 8 --contexts 8k,32k,128k --context 131072", SGLANG_FLAGS
    ),
    "gpt-oss-vllm": Case("gpt-oss-120b", "vllm", "--tp 8 --contexts 8k,32k,128k --context 131072", VLLM_FLAGS),
    "gemma3-vllm": Case(
        "rehearsals/gemma-3-27b.json", "vllm", "--tp 8 --contexts 8k,32k,128k --context 131072", VLLM_FLAGS
    ),
    "deepseek-v2-lite-vllm": Case(
        "rehearsals/deepseek-v2-lite.json", "vllm", "--tp 2 --contexts 8k,32k,128k --context 163840", VLLM_FLAGS
    ),
    "qwen3-next-vllm": Case(
        "rehearsals/qwen3-next-80b-a3b.json",
        "vllm",
        "--tp 8 --contexts 8k,64k,250k --context 262144",
        # FlashInfer's kernel of its layers is compiled at the first step, for more than four minutes.
        VLLM_FLAGS + " --gdn-prefill-backend triton",
    ),
}  # fmt: skip


def main() -> None:
    """Run the cases that are named, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", choices=[*CASES, "all"])
    parser.add_argument("--out", type=Path, required=True, help="a folder for each case goes here")
    parser.add_argument("--vllm", default="", help="the Python that has vLLM")
    parser.add_argument("--sglang", default="", help="the Python that has SGLang")
    parser.add_argument("--calibrate", action="store_true")
    given = parser.parse_args()
    names = list(CASES) if "all" in given.cases else given.cases
    done = {name: run(name, given) for name in names}
    print(json.dumps(done, indent=1))


def run(name: str, given: argparse.Namespace) -> dict[str, object]:
    """Run one case; what came of it."""
    case = CASES[name]
    python = getattr(given, case.engine)
    model = str(HERE / case.model) if case.model.endswith(".json") else case.model
    folder = given.out / name
    words = [
        *(sys.executable, "-m", "farspan", "rehearse", model, "--engine", case.engine, *case.arguments.split()),
        *("--gpus", "1xH200", "-o", str(folder), "--retry-failed", "--ready-limit", str(case.limit_s)),
        *(("--python", python) if python else ()),
        *(("--calibrate",) if given.calibrate else ()),
        *("--", *case.flags.split()),
    ]  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (given.out / f"{name}.txt").open("w") as out:
        try:
            status = subprocess.run(
                words, stdout=out, stderr=subprocess.STDOUT, timeout=case.limit_s + 120, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
    return {"exit": status, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    main()
