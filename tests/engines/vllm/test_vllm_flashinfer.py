"""FlashInfer's workspace in vLLM's estimate of CUDA graphs, beside what public servers printed."""

from __future__ import annotations

import pytest

from farspan.engines.vllm.config import config_of
from farspan.engines.vllm.defaults import batch_limits
from farspan.engines.vllm.flashinfer import captured_workspace, oldest_capability
from farspan.engines.vllm.graphs import graph_estimate
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.planner.engine_flags import parse_engine_flags
from farspan.planner.request import PlanRequest
from farspan.sizes import GIB

FP8 = "--kv-cache-dtype fp8_e4m3"
MTP = '--speculative-config {"method":"mtp","num_speculative_tokens":2}'


def estimated(model: str, gpu: str, flags: str, version: str, tp: int = 1) -> tuple[float, float]:
    """GiB of the whole estimate and of the workspace in it."""
    request = PlanRequest(
        load_model(model, allow_network=False),
        find_gpu(gpu),
        tp,
        tp,
        8192,
        engine_version=version,
        engine_flags=parse_engine_flags(flags.split()),
    )
    config = config_of(request)
    limits = batch_limits(config.given, config.gpu, 8192, config.rules)
    return graph_estimate(config, limits) / GIB, captured_workspace(config, limits) / GIB


@pytest.mark.parametrize(
    ("gpu", "flags", "printed"),
    [
        ("GB10", "--max-num-seqs 1 --max-cudagraph-capture-size 1 --max-num-batched-tokens 8192", 0.43),
        ("GB10", "--max-num-seqs 8 --max-cudagraph-capture-size 1 --max-num-batched-tokens 65536", 0.47),
        ("RTX-5090", "--max-num-seqs 4 --max-cudagraph-capture-size 4 --max-num-batched-tokens 4096", 0.45),
    ],
)
def test_as_servers_of_0_20_printed_it(gpu: str, flags: str, printed: float) -> None:
    """RedHatAI/Qwen3.6-35B-A3B-NVFP4 on FLASHINFER, PIECEWISE and FULL: "Estimated CUDA graph memory"."""
    whole, workspace = estimated("qwen3.5-35b-a3b", gpu, f"{FP8} {flags}", "0.20.0")
    assert whole == pytest.approx(printed, abs=0.04)
    assert workspace == pytest.approx(394 / 1024)


def test_it_grows_with_the_step_from_0_26_on() -> None:
    """A 27B of 24 heads of 256 on one RTX 5090: 0.52 GiB up to 4096 tokens a step, 0.89 with 8192 (vllm #52872)."""
    flags = f"{FP8} --max-num-seqs 2 --max-num-batched-tokens"
    small, _ = estimated("qwen3.5-27b", "RTX-5090", f"{flags} 4096", "0.27.1")
    large, _ = estimated("qwen3.5-27b", "RTX-5090", f"{flags} 8192", "0.27.1")
    before, _ = estimated("qwen3.5-27b", "RTX-5090", f"{flags} 8192", "0.25.1")
    assert small == pytest.approx(0.52, abs=0.06)
    assert large - small == pytest.approx(0.37, abs=0.01)
    assert before == pytest.approx(small)


@pytest.mark.parametrize(
    ("model", "gpu", "flags", "version", "mib"),
    [
        ("qwen3.5-27b", "RTX-5090", "", "0.27.1", 0),  # FlashAttention takes BF16
        ("qwen3.5-27b", "H100", FP8, "0.27.1", 0),  # and FP8 on Hopper
        ("qwen3.5-27b", "H100", f"{FP8} --attention-backend FLASHINFER", "0.27.1", 394),
        ("qwen3.5-27b", "B200", "", "0.27.1", 394),
        ("gpt-oss-120b", "B200", "", "0.27.1", 394),
        ("gpt-oss-120b", "RTX-PRO-6000", "", "0.27.1", 0),  # sinks
        ("deepseek-v3", "B200", "", "0.27.1", 0),  # latents
        ("qwen3.5-27b", "A100-80GB", FP8, "0.24.0", 394),
        ("qwen3.5-27b", "A100-80GB", f"{FP8} --enforce-eager", "0.24.0", 0),
        ("qwen3.5-27b", "A100-80GB", f"{FP8} {MTP}", "0.24.0", 0),  # "setting cudagraph_mode=PIECEWISE"
        ("qwen3.5-27b", "RTX-5090", f"{FP8} {MTP}", "0.28.0", 394),  # XQA decodes several tokens a request
    ],
)
def test_where_it_is_made(model: str, gpu: str, flags: str, version: str, mib: int) -> None:
    tp = 8 if model == "deepseek-v3" else 1
    assert estimated(model, gpu, flags, version, tp)[1] == pytest.approx(mib / 1024)


def test_turing_went_with_0_24() -> None:
    assert oldest_capability("0.23.0") == (7, 5)
    assert oldest_capability("0.24.0") == (8, 0)
