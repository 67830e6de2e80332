"""CUDA graphs: which batch sizes are captured, and what that is estimated to take.

The estimates are fitted to what 46 servers printed (vLLM 0.19.0 on H100, docs/accuracy.md).
"""

from __future__ import annotations

from farspan.engines.vllm.config import VllmConfig
from farspan.engines.vllm.defaults import BatchLimits
from farspan.engines.vllm.flashinfer import captured_workspace
from farspan.models.spec import AttentionKind
from farspan.planner.calibration import memory_of
from farspan.sizes import GIB

LARGEST_CAPTURE = 512
_FULL_SIZES = 51  # of the default list
# What a first capture takes whatever its size and with each token of its batch (lists up to 16 and 32 tokens, Qwen3.6
# 27B on RTX 3090s: 0.09 to 0.17 in all), a layer's share of the others at the default list, what experts add a token.
_FIRST_BYTES, _FIRST_TOKEN_BYTES = int(0.045 * GIB), int(0.0006 * GIB)
_LAYER_BYTES, _EXPERT_TOKEN_BYTES = int(0.012 * GIB), int(0.35 * GIB) // LARGEST_CAPTURE
_AMD_FACTOR = 4.6  # one MI300X: 3.9 GiB taken where 0.85 would be here
# Piecewise graphs alone, as models with chunked local attention capture them (0.24.0, one server).
_PIECEWISE_BYTES, _PIECEWISE_TAKEN = 502 * 2**20, 717 * 2**20
_TAKEN_OVER_ESTIMATE = 1.1  # capture took 0.45 to 1.4 times the estimate, 1.1 at the median


def capture_sizes(config: VllmConfig, limits: BatchLimits) -> tuple[int, ...]:
    """Batch sizes captured (vllm config/vllm.py: _set_cudagraph_sizes); none when eager."""
    given = config.given
    if given.enforce_eager:
        return ()
    if given.capture_sizes is not None:
        return tuple(size for size in given.capture_sizes if size <= limits.tokens)
    most = given.max_capture_size or min(limits.requests * (1 + given.draft_tokens) * 2, LARGEST_CAPTURE)
    most = min(most, limits.tokens)
    sizes = [size for size in (1, 2, 4) if size <= most]
    sizes += range(8, min(most + 1, 256), 8)
    sizes += range(256, most + 1, 16)
    return tuple(sizes)


def graph_estimate(config: VllmConfig, limits: BatchLimits) -> int:
    """What vLLM estimates before the KV cache is sized ("Estimated CUDA graph memory")."""
    return _graphs_alone(config, limits) + captured_workspace(config, limits)


def _graphs_alone(config: VllmConfig, limits: BatchLimits) -> int:
    captured = capture_sizes(config, limits)
    if not captured:
        return 0
    share = len(captured) / _FULL_SIZES
    # Each size is captured with adapters and without (config/compilation.py: cudagraph_specialize_lora).
    if config.given.adapters is not None:
        share *= 2
    if _piecewise_only(config):
        return int(_PIECEWISE_BYTES * share)
    model = config.model
    a_token = _FIRST_TOKEN_BYTES + (_EXPERT_TOKEN_BYTES if any(layer.moe for layer in model.layers) else 0)
    estimate = _FIRST_BYTES + a_token * max(captured) + int(_LAYER_BYTES * model.num_layers * share)
    return int(estimate * _AMD_FACTOR) if config.gpu.is_amd else estimate


def graph_bytes(config: VllmConfig, limits: BatchLimits) -> int:
    """What capture is expected to take."""
    sizes = len(capture_sizes(config, limits))
    memory = memory_of(config.calibration)
    share = 1.0 if memory is None else memory.graphs_share
    if sizes and _piecewise_only(config):
        return int(_PIECEWISE_TAKEN * sizes / _FULL_SIZES * share)
    alone = int(_graphs_alone(config, limits) * _TAKEN_OVER_ESTIMATE * share)
    return alone + captured_workspace(config, limits)


def _piecewise_only(config: VllmConfig) -> bool:
    return any(True for _ in config.model.layers_of(AttentionKind.CHUNKED_LOCAL))
