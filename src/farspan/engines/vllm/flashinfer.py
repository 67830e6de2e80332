"""Where vLLM's attention runs on FlashInfer, and the workspace that a CUDA graph's capture makes for it.

vllm platforms/cuda.py: _get_backend_priorities; v1/attention/backends/flashinfer.py.
"""

from __future__ import annotations

from farspan.engines.vllm.config import VllmConfig
from farspan.engines.vllm.defaults import BatchLimits, resolve_kv_dtype
from farspan.models.spec import AttentionKind, LayerSpec, ModelSpec
from farspan.planner.versions import version_key

_WORKSPACE = 394 * 2**20  # VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE, of its own kernels and of TensorRT-LLM's
_BYTES_AN_ELEMENT = 16  # FLASHINFER_PREFILL_WORKSPACE_BYTES_PER_ELEM
_SCALED_SINCE = version_key("0.26.0")  # by the step's tokens and the query heads
_NO_TURING_SINCE = version_key("0.24.0")
# TensorRT-LLM's decode kernel (XQA) beyond Blackwell for data centres: utils/flashinfer.py: supports_trtllm_attention.
_XQA_SINCE = {9: version_key("0.26.0"), 12: version_key("0.28.0")}
_HEAD_DIMS = (64, 128, 256)
_NAME = "flashinfer"
_TRITON_ALONE = (
    "Gemma3ForConditionalGeneration",
    "Gemma4",
)  # a prefix of images seen from both sides; heads of two sizes


def oldest_capability(version: str) -> tuple[int, int]:
    """The oldest card that FlashInfer serves (supports_compute_capability)."""
    return (8, 0) if version_key(version) >= _NO_TURING_SINCE else (7, 5)


def captured_workspace(config: VllmConfig, limits: BatchLimits) -> int:
    """What the first capture of a whole decode step makes for FlashInfer, which vLLM counts as memory of the graphs."""
    given, heads = config.given, _widest_heads(config.model)
    if not heads or not _serves(config) or given.enforce_eager or not given.full_graphs:
        return 0
    if _decodes_by_trtllm(config):
        return _WORKSPACE
    if given.draft_tokens:
        return 0  # steps of several tokens a request are not captured whole (UNIFORM_SINGLE_TOKEN_DECODE)
    if version_key(config.rules.version) < _SCALED_SINCE:
        return _WORKSPACE
    return max(_WORKSPACE, limits.tokens * heads // config.tp * _BYTES_AN_ELEMENT)


def _serves(config: VllmConfig) -> bool:
    given, gpu, model = config.given, config.gpu, config.model
    if gpu.is_amd or not oldest_capability(config.rules.version) <= gpu.capability <= (12, 1):
        return False
    if given.attention_backend:
        return given.attention_backend == _NAME
    layers = _attention_layers(model)
    if not all(layer.head_dim in _HEAD_DIMS for layer in layers) or model.architecture.startswith(
        _TRITON_ALONE
    ):
        return False
    if gpu.capability[0] == 10:
        return True
    # FlashAttention comes first elsewhere, and takes an FP8 cache on Hopper alone; sinks want TensorRT-LLM's kernels.
    quantized = resolve_kv_dtype(model, given.kv_dtype).is_fp8
    sinks = any(tensor.name.endswith(".sinks") for tensor in model.weights)
    return quantized and gpu.capability[0] != 9 and not sinks


def _decodes_by_trtllm(config: VllmConfig) -> bool:
    generation = config.gpu.capability[0]
    since = _XQA_SINCE.get(generation)
    return generation == 10 or (since is not None and version_key(config.rules.version) >= since)


def _attention_layers(model: ModelSpec) -> tuple[LayerSpec, ...]:
    kinds = (AttentionKind.FULL, AttentionKind.SLIDING_WINDOW)
    return tuple(layer for layer in model.layers if layer.attention in kinds)


def _widest_heads(model: ModelSpec) -> int:
    """Elements of one token's queries in the widest layer; 0 where a layer keeps latents, which others serve."""
    layers = _attention_layers(model)
    others = sum(1 for layer in model.layers if not layer.attention.keeps_no_tokens) - len(layers)
    return 0 if others else max((layer.num_heads * layer.head_dim for layer in layers), default=0)
