"""vLLM's flags that are refused: unknown to a release, contradicting the request, or of memory that is not mirrored."""

from __future__ import annotations

from farspan.engines.vllm.known_flags import check_flag_names
from farspan.engines.vllm.versions import VllmRules
from farspan.errors import InputError, UnsupportedError
from farspan.planner.request import PlanRequest

TENSOR_PARALLEL = ("--tensor-parallel-size", "-tp")
QUANTIZATION = ("--quantization", "-q")
ONLINE_FP8 = ("fp8", "fp8_per_tensor", "fp8_per_block")  # methods that quantize while loading
_PREFETCH = "prefetching weight offload"
# Each changes the arithmetic in ways that are not mirrored: planning on would give a wrong answer.
_CACHE_MODE = "--mamba-cache-mode"
_NOT_MIRRORED = {
    "--prefill-context-parallel-size": "prefill context parallelism",
    "--cpu-offload-params": "offload of some weights by name",
    "--offload-backend": _PREFETCH,
    "--offload-group-size": _PREFETCH,
    "--offload-params": _PREFETCH,
    "--enable-eplb": "redundant experts",
    "--enable-elastic-ep": "elastic expert parallelism",
    "--enable-dbo": "two batches at once, each with buffers of its own",
    "--ubatch-size": "several batches at once, each with buffers of its own",
    "--disable-sliding-window": "windowed layers that keep every token",
    "--swa-bounded-replay": "windowed layers that replay tokens",
    "--mamba-cache-dtype": "recurrent states of another type",
    "--mamba-block-size": "recurrent states kept at other distances",
    _CACHE_MODE: "recurrent states kept at other distances",
    "--use-replayssm": "recurrent states replayed from a buffer",
    "--mm-ipc-gpu-memory-gb": "GPU memory for images handed over",
    "--diffusion-config": "a diffusion model",
    "--quantization-config": "weights quantized by another config",
    "--spec-method": "speculative decoding in parts; --speculative-config is read",
    "--spec-model": "speculative decoding in parts; --speculative-config is read",
    "--kv-cache-dtype-skip-layers": "KV dtypes that differ by layer",
    "VLLM_USE_V2_MODEL_RUNNER": "a model runner chosen by hand",
    "VLLM_USE_V1": "the engine before V1",
}
_NEUTRAL = ("0", "null", "none", "auto", "false", "{}")
# Counts of ranks or batches, and switches: one is what there is without the flag, or as good as that.
_NEUTRAL_AT_ONE = frozenset(
    {"--prefill-context-parallel-size", "--ubatch-size", "VLLM_USE_V1", "VLLM_USE_V2_MODEL_RUNNER"}
)
# What says how groups of layers are offloaded, and alone does nothing.
OFFLOAD_DETAILS = ("--offload-num-in-group", "--offload-prefetch-step")


def check_flags(request: PlanRequest, rules: VllmRules) -> None:
    """Refuse flags that this release does not have, that contradict the request, or whose memory is not mirrored.

    Raises:
        InputError: A flag is unknown to the release, or contradicts the request.
        UnsupportedError: A flag changes memory in a way that is not mirrored.
    """
    for name, what in _NOT_MIRRORED.items():
        if request.has_flag(name) and not _is_neutral(name, request.engine_flags[name]):
            instead = ", with --cpu-offload-gb GIB, which is planned" if what == _PREFETCH else ""
            raise UnsupportedError(
                f"{name} ({what}) changes vLLM's memory in a way farspan does not mirror",
                f"plan without {name}{instead}",
            )
    if request.has_flag(*TENSOR_PARALLEL) and request.int_flag(0, *TENSOR_PARALLEL) != request.tp:
        raise InputError(
            f"--tensor-parallel-size {request.text_flag('', *TENSOR_PARALLEL)} contradicts --tp {request.tp}",
            "give one",
        )
    _refuse_other_weights(request)
    if request.has_flag("--calculate-kv-scales") and not rules.calculates_kv_scales:
        raise InputError(f"vllm {rules.version} has no --calculate-kv-scales", "drop it: it went in 0.28.0")
    check_flag_names(request.engine_flags, rules.version)


def _is_neutral(name: str, value: str | None) -> bool:
    """Whether a value asks for what there is without the flag."""
    if name == _CACHE_MODE and value == "align":
        return True  # read: the mode of most models where prefixes are cached
    return value is not None and (value.lower() in _NEUTRAL or (value == "1" and name in _NEUTRAL_AT_ONE))


def _refuse_other_weights(request: PlanRequest) -> None:
    """Raise for a quantization made while loading whose size is not mirrored."""
    model = request.model
    method = request.text_flag("none", *QUANTIZATION).lower()
    if method in _NEUTRAL or method in ONLINE_FP8 or model.quantization is not None:
        return
    raise UnsupportedError(
        f"--quantization {method} quantizes weights that {model.name} keeps in {model.torch_dtype}",
        "drop it, and plan that checkpoint with --weights fp8 or int4",
    )


def capture_size(size: object) -> int:
    """One batch size of a list that CUDA graphs are captured for.

    Raises:
        InputError: It is none.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    if isinstance(size, str) and size.isdecimal() and int(size) > 0:
        return int(size)
    raise InputError(
        f"--cudagraph-capture-sizes has {str(size)[:40]!r}, which is no batch size", "write them as 1 2 4 8"
    )
