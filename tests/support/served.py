"""A checkpoint being served by a real engine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MAX_MODEL_LEN = 131_072

# vLLM looks for a GPU, for the hub and for somebody to report to; there is none of them here.
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # By itself it leaves one core free, which of two is half of them.
    "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
    "OMP_WAIT_POLICY": "passive",  # threads that wait leave the core to the tests beside
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class ServedCheckpoint:
    url: str
    folder: Path


def vllm_command(python: Path, folder: Path, port: int, *flags: str) -> list[str]:
    """The command that serves a checkpoint with vLLM."""
    return [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", "recall"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--max-model-len", str(MAX_MODEL_LEN), "--enforce-eager", "--enable-prompt-tokens-details"),
        # float32: processors without bf16 instructions are a fifth faster with it
        *("--dtype", "float32"),
        *flags,
    ]
