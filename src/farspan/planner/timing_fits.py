"""Efficiencies fitted to runs of real servers; `tests/planner/test_timing.py` fits them again."""

from __future__ import annotations

from typing import NamedTuple


class Fit(NamedTuple):
    """How close to the roofline one engine version came on one GPU.

    Args:
        engine: "vllm", "sglang" or "builtin".
        version: The version that ran.
        gpu: The GPU it ran on.
        kv: "bf16" or "fp8".
        backend: Attention backend, or empty for the engine's default.
        linear: Share of the peak in matrix products of weights; launch gaps included, and the collectives of a whole
            deployment.
        attention: Share of the peak in attention, FP8 peak for an FP8 cache.
        decode: Share of the memory bandwidth while decoding.
        step_s: Seconds a decoding step takes besides reading memory.
        runs: What it was fitted to, in words.
        experts: Whether the model that ran had experts, whose matrices are small.
        alone: Whether one rank of a deployment ran alone: collectives are not in its shares.
    """

    engine: str
    version: str
    gpu: str
    kv: str
    backend: str
    linear: float
    attention: float
    decode: float
    step_s: float
    runs: str
    experts: bool = True
    alone: bool = False


# Only vLLM 0.24.0 reported the time between tokens, of one rank alone: every fit uses its decoding figures.
_DECODE, _STEP_S = 0.46603, 0.0081454
DECODE_ALONE = True
# A single run cannot tell linear from attention work: it borrows the linear efficiency three runs determine.
_LINEAR, _TRITON_LINEAR = 0.27655, 0.55114

# Seconds the CPU takes to launch one layer's kernels without CUDA graphs: one rank of Scout (48 layers) decoded in
# 68 to 88 ms a token eager on one H200 (vLLM 0.24.0; SGLang 0.5.16 in 67), where reading memory takes 10 to 13; one
# rank of Llama 3.1 70B (80 layers) in 33 to 36.
EAGER_EXPERTS_S = 0.078 / 48
EAGER_LAYER_S = 0.0345 / 80

# The first is the fallback where nothing closer was measured.
FITS: tuple[Fit, ...] = (
    Fit(
        "vllm",
        "0.12.0",
        "H200",
        "bf16",
        "",
        _LINEAR,
        0.43260,
        _DECODE,
        _STEP_S,
        "three prompts of 2.8M to 6.4M tokens, Scout on 8x H200",
    ),
    Fit(
        "vllm",
        "0.12.0",
        "H200",
        "fp8",
        "",
        _LINEAR,
        0.26501,
        _DECODE,
        _STEP_S,
        "one prompt of 9.8M tokens, Scout on 8x H200",
    ),
    Fit(
        "vllm",
        "0.24.0",
        "H200",
        "bf16",
        "",
        0.31238,
        0.54739,
        _DECODE,
        _STEP_S,
        "prompts of 8k to 1M tokens, one rank of Scout alone on one H200, without collectives",
        alone=True,
    ),
    Fit(
        "vllm",
        "0.24.0",
        "H200",
        "bf16",
        "",
        0.56808,
        0.63030,
        _DECODE,
        _STEP_S,
        "prompts of 8k to 128k tokens, one rank of Llama 3.1 70B alone on one H200, without collectives",
        experts=False,
        alone=True,
    ),
    Fit(
        "sglang",
        "0.5.6.post2",
        "H200",
        "bf16",
        "fa3",
        _LINEAR,
        0.27114,
        _DECODE,
        _STEP_S,
        "one prompt of 2.1M tokens, Scout on 8x H200, eager decode",
    ),
    # Triton's time grows faster than the square of the length, which no share can say.
    Fit(
        "sglang",
        "0.5.16",
        "H200",
        "bf16",
        "triton",
        _TRITON_LINEAR,
        0.034321,
        _DECODE,
        _STEP_S,
        "prompts of 8k to 256k tokens, one rank of Scout alone on one H200, triton backend",
        alone=True,
    ),
    Fit(
        "sglang",
        "0.5.16",
        "H200",
        "fp8",
        "triton",
        _TRITON_LINEAR,
        0.016069,
        _DECODE,
        _STEP_S,
        "one prompt of 262k tokens, one rank of Scout alone on one H200, triton backend",
        alone=True,
    ),
    # Never run whole: torch's flash attention alone, 8192 queries over 1M keys, at 281 TFLOP/s.
    Fit(
        "builtin",
        "0.0",
        "H200",
        "bf16",
        "",
        _LINEAR,
        0.284,
        _DECODE,
        _STEP_S,
        "torch's flash attention alone on one H200; the rest is vLLM 0.12.0's",
        alone=True,
    ),
)

# Seconds of CPU the prefix tree takes for a whole prompt (tokens, seconds), one core, chunks of 8192 tokens.
PREFIX_TREE_S: dict[str, tuple[tuple[float, float], ...]] = {
    "0.5.6.post2": ((1e6, 15.0), (2e6, 101.0), (10e6, 10800.0)),
    "0.5.23": ((2e6, 3.1), (4e6, 18.8), (9.5e6, 150.0)),
}
PREFIX_TREE_CHUNK = 8192
# 0.5.6.post2 at 2M tokens: 101 s with chunks of 8192, 2.2 s with chunks of 131072.
PREFIX_TREE_CHUNK_POWER = 1.38
