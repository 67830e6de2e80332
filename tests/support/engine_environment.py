"""The environment a real vLLM needs on a machine without a GPU."""

from __future__ import annotations

import os

# vLLM looks for a GPU, for the hub and for somebody to report to; there is none of them here.
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # By itself it leaves one core free, which of two is half of them.
    "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
}
