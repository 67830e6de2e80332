"""vLLM's command line, read the way vLLM reads it: what was given, before any default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from farspan.engines.vllm.adapters import Adapters, read_adapters
from farspan.engines.vllm.capture_flags import json_flag, read_captures
from farspan.engines.vllm.flag_checks import (
    ONLINE_FP8,
    QUANTIZATION,
    TENSOR_PARALLEL,
    check_flags,
)
from farspan.engines.vllm.speculative import DRAFT_MODEL, EAGLE, EAGLE_3, speculative_method
from farspan.engines.vllm.state_dtypes import state_dtype
from farspan.engines.vllm.versions import VllmRules
from farspan.errors import InputError
from farspan.models.spec import KvDtype
from farspan.planner.engine_flags import flag_words, split_environment
from farspan.planner.request import PlanRequest
from farspan.sizes import GIB
from farspan.value_hash import ValueHash

CHUNKED_HYBRID_ENV = "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE"
GRAPH_ESTIMATE_ENV = "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS"
FLASHINFER_SAMPLER_ENV = "VLLM_USE_FLASHINFER_SAMPLER"
_BACKEND_ENV = "VLLM_ATTENTION_BACKEND"
LONG_CONTEXT_ENV = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"

MAX_MODEL_LEN = "--max-model-len"
MAX_NUM_SEQS = "--max-num-seqs"
_WRITTEN_BY_FARSPAN = (MAX_MODEL_LEN, MAX_NUM_SEQS, "--kv-cache-dtype", *TENSOR_PARALLEL)
DISABLE_HYBRID = "--disable-hybrid-kv-cache-manager"
_DTYPES = {
    "auto": KvDtype.AUTO,
    "bfloat16": KvDtype.BFLOAT16,
    "float16": KvDtype.FLOAT16,
    "fp8": KvDtype.FP8,
    "fp8_e4m3": KvDtype.FP8_E4M3,
    "fp8_e5m2": KvDtype.FP8_E5M2,
    "fp8_ds_mla": KvDtype.FP8_DS_MLA,
}
_FRACTION = ("--gpu-memory-utilization", "--device-memory-utilization")
_PP = ("--pipeline-parallel-size", "-pp")
_DCP = ("--decode-context-parallel-size", "-dcp")
_TORCH_DTYPES = {  # of --dtype
    "float32": "float32",
    "float": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "half": "float16",
}


@dataclass(frozen=True, slots=True)
class VllmFlags(ValueHash):
    """What was given, None where vLLM chooses. Compared by value and hashed once: it is part of cache keys.

    Args:
        max_model_len: Tokens; None for the request's context.
        auto_max_model_len: Whether `--max-model-len auto` (or -1) asks vLLM to reduce it to what fits.
        kv_dtype: The KV cache type.
        gpu_memory_utilization: Fraction of the card.
        max_num_batched_tokens: Tokens of one step.
        max_num_seqs: Requests at once.
        block_size: Tokens of a block.
        kv_cache_memory_bytes: KV memory by hand; no profiling counts then.
        num_blocks: `--num-gpu-blocks-override`.
        hybrid: True or False when hybrid groups were asked for or refused.
        chunked_hybrid_env: The environment variable, when given.
        graph_estimate_env: The same for the CUDA graph estimate.
        long_context_env: Whether a context above the model's maximum is allowed.
        connector: Name of the KV connector, empty for none; "?" when it is not named.
        kv_events: Whether KV events are published.
        speculative: Method of speculative decoding, empty for none.
        draft: The model or head that drafts, where it is one by itself.
        draft_ranks: Its tensor-parallel size, when given.
        enforce_eager: Whether there are no CUDA graphs.
        prefix_caching: True or False when asked for.
        async_scheduling: True or False when asked for.
        chunked_prefill: Whether chunked prefill is on.
        images: Whether the vision tower serves images.
        whole_encoder: Whether every rank has the whole vision tower (--mm-encoder-tp-mode data).
        throughput_mode: `--performance-mode throughput`, which doubles the default batch.
        calculate_kv_scales: Whether `--calculate-kv-scales` was given.
        cpu_offload_bytes: Weights to keep in the machine's memory, for each GPU.
        kv_offload_bytes: Machine memory for finished KV, all ranks together.
        dtype: Type of unquantized weights, empty for the model's own.
        quantize_fp8: Whether `--quantization fp8` makes FP8 of weights that are not quantized.
        pipeline: Pipeline stages.
        context_ranks: Ranks that share the tokens of a request's KV (decode context parallelism).
        expert_parallel: Whether whole experts are shared out over the ranks.
        flashinfer_sampler: VLLM_USE_FLASHINFER_SAMPLER, when given.
        capture_sizes: Batch sizes of --compilation-config or --cudagraph-capture-sizes.
        max_capture_size: Largest batch size captured, when given.
        full_graphs: Whether whole decode steps are captured, as they are unless a flag says otherwise.
        draft_tokens: Tokens a speculative method drafts a step.
        passed_on: Words of the flags farspan does not write itself, as given.
        env: Environment variables, name and value, as given.
        adapters: What is asked of LoRA; None without it.
        attention_backend: The attention backend asked for, in lower case; empty for vLLM's own choice.
        state_dtype: The type of recurrent states asked for; empty for the config's.
        aligned_states: Whether the last recurrent state of a prefix is cached alone: --mamba-cache-mode align.
    """

    max_model_len: int | None
    auto_max_model_len: bool
    kv_dtype: KvDtype
    gpu_memory_utilization: float | None
    max_num_batched_tokens: int | None
    max_num_seqs: int | None
    block_size: int | None
    kv_cache_memory_bytes: int | None
    num_blocks: int | None
    hybrid: bool | None
    chunked_hybrid_env: bool | None
    graph_estimate_env: bool | None
    long_context_env: bool
    connector: str
    kv_events: bool
    speculative: str
    draft: str
    draft_ranks: int | None
    enforce_eager: bool
    prefix_caching: bool | None
    async_scheduling: bool | None
    chunked_prefill: bool
    images: bool
    whole_encoder: bool
    throughput_mode: bool
    calculate_kv_scales: bool
    cpu_offload_bytes: int
    kv_offload_bytes: int
    dtype: str
    quantize_fp8: bool
    pipeline: int
    context_ranks: int
    expert_parallel: bool
    flashinfer_sampler: bool | None
    capture_sizes: tuple[int, ...] | None
    max_capture_size: int | None
    full_graphs: bool
    draft_tokens: int
    passed_on: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    adapters: Adapters | None
    attention_backend: str
    state_dtype: str
    aligned_states: bool

    __hash__ = ValueHash.__hash__


def human_int(text: str, flag: str) -> int:
    """Read a number as vLLM does: 10k is 10,000 and 10K is 10,240 (engine/arg_utils.py: human_readable_int).

    Raises:
        InputError: The text is not such a number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT]?)", text.strip())
    if match is not None:
        number, unit = match.groups()
        power = "kmgt".find(unit.lower()) + 1 if unit else 0
        if unit == unit.lower():
            whole, _, fraction = number.partition(".")
            value, rest = divmod(int(whole + fraction) * int(1000**power), int(10 ** len(fraction)))
            if not rest:
                return value
        elif "." not in number:
            return int(number) << (10 * power)
    raise InputError(
        f"{flag} {text!r} is not a whole number", "write it in digits: vLLM reads 10M as 10 x 2^20"
    )


def read_flags(request: PlanRequest, rules: VllmRules) -> VllmFlags:
    """Read the engine flags of a request.

    Raises:
        InputError: A flag contradicts the request, has a value vLLM refuses, does not exist in this version,
            or asks for something whose memory is not mirrored.
    """
    spelled = request.with_flags(normalized(request.engine_flags))
    check_flags(spelled, rules)
    length, auto = _max_model_len(spelled, rules)
    fraction = spelled.float_flag(0.0, *_FRACTION) if spelled.has_flag(*_FRACTION) else None
    if fraction is not None and not 0 < fraction <= 1:
        raise InputError(
            f"--gpu-memory-utilization {fraction} is not above 0 and at most 1", "write it as 0.90"
        )
    speculative = json_flag(spelled, "--speculative-config", "-sc")
    method = speculative_method(speculative)
    connector = _connector(spelled)
    captures = read_captures(spelled)
    drafts = speculative.get("num_speculative_tokens", 0)
    draft_tokens = drafts if isinstance(drafts, int) else 0
    return VllmFlags(
        max_model_len=length,
        auto_max_model_len=auto,
        kv_dtype=_kv_dtype(spelled),
        gpu_memory_utilization=fraction,
        max_num_batched_tokens=_human(spelled, "--max-num-batched-tokens"),
        max_num_seqs=_human(spelled, MAX_NUM_SEQS),
        block_size=_block_size(spelled),
        kv_cache_memory_bytes=_human(spelled, "--kv-cache-memory-bytes")
        or _human(spelled, "--kv-cache-memory"),
        num_blocks=_human(spelled, "--num-gpu-blocks-override"),
        hybrid=_hybrid(spelled),
        chunked_hybrid_env=_env(spelled, CHUNKED_HYBRID_ENV),
        graph_estimate_env=_env(spelled, GRAPH_ESTIMATE_ENV),
        long_context_env=_env(spelled, LONG_CONTEXT_ENV) is True,
        connector=connector,
        kv_events=_given(spelled, "--kv-events-config"),
        speculative=method,
        draft=str(speculative.get("model", "")) if method in (DRAFT_MODEL, EAGLE, EAGLE_3) else "",
        draft_ranks=ranks
        if isinstance(ranks := speculative.get("draft_tensor_parallel_size"), int)
        else None,
        enforce_eager=_switch(spelled, "--enforce-eager") is True or captures.none,
        prefix_caching=_switch(spelled, "--enable-prefix-caching"),
        async_scheduling=_switch(spelled, "--async-scheduling"),
        chunked_prefill=_switch(spelled, "--enable-chunked-prefill") is not False,
        images=_images(spelled),
        whole_encoder=spelled.text_flag("weights", "--mm-encoder-tp-mode") == "data",
        throughput_mode=spelled.text_flag("", "--performance-mode") == "throughput",
        calculate_kv_scales=_switch(spelled, "--calculate-kv-scales") is True,
        cpu_offload_bytes=_gib(spelled, "--cpu-offload-gb"),
        kv_offload_bytes=_gib(spelled, "--kv-offloading-size"),
        dtype=_dtype(spelled),
        quantize_fp8=spelled.text_flag("none", *QUANTIZATION).lower() in ONLINE_FP8,
        pipeline=_positive(spelled, *_PP),
        context_ranks=_positive(spelled, *_DCP),
        expert_parallel=_switch(spelled, "--enable-expert-parallel") is True,
        flashinfer_sampler=_env(spelled, FLASHINFER_SAMPLER_ENV),
        capture_sizes=captures.sizes,
        max_capture_size=captures.largest,
        full_graphs=captures.full,
        draft_tokens=draft_tokens,
        passed_on=_passed_on(spelled),
        env=tuple(split_environment(spelled.engine_flags)[1].items()),
        adapters=read_adapters(spelled, rules),
        attention_backend=spelled.text_flag("", "--attention-backend", _BACKEND_ENV).lower(),
        state_dtype=state_dtype(spelled, rules),
        aligned_states=spelled.text_flag("", "--mamba-cache-mode").lower() == "align",
    )


def _passed_on(request: PlanRequest) -> tuple[str, ...]:
    words: list[str] = []
    for name, value in split_environment(request.engine_flags)[0].items():
        if name not in _WRITTEN_BY_FARSPAN:
            words += flag_words(name, value)
    return tuple(words)


def normalized(flags: Mapping[str, str | None]) -> dict[str, str | None]:
    """Flags with dashes for underscores, as vLLM's FlexibleArgumentParser takes them; the rest unchanged."""
    return {name.replace("_", "-") if name.startswith("--") else name: value for name, value in flags.items()}


def _dtype(request: PlanRequest) -> str:
    text = request.text_flag("auto", "--dtype").lower()
    if text == "auto":
        return ""
    if text not in _TORCH_DTYPES:
        raise InputError(
            f"--dtype {text} is none of vLLM's", f"choose one of auto, {', '.join(_TORCH_DTYPES)}"
        )
    return _TORCH_DTYPES[text]


def _positive(request: PlanRequest, *names: str) -> int:
    value = request.int_flag(1, *names)
    if value < 1:
        raise InputError(f"{names[0]} {value} is not positive", "give at least 1")
    return value


def _given(request: PlanRequest, name: str) -> bool:
    return request.has_flag(name)


def _block_size(request: PlanRequest) -> int | None:
    """Read --block-size; attention kernels take multiples of 16 (`v1/attention/backends/flash_attn.py`)."""
    size = _human(request, "--block-size")
    if size is not None and size % 16:
        raise InputError(f"--block-size {size} is no multiple of 16", "give 16, 32, 64 or 128")
    return size


def _human(request: PlanRequest, name: str) -> int | None:
    if not request.has_flag(name):
        return None
    value = human_int(request.text_flag("", name), name)
    if value <= 0:
        raise InputError(f"{name} {value} is not positive", "give a number above 0")
    return value


def _gib(request: PlanRequest, name: str) -> int:
    value = request.float_flag(0.0, name)
    if not 0 <= value < float("inf"):
        raise InputError(f"{name} {value} is not a memory size", "give GiB, as in 16")
    return int(value * GIB)


def _max_model_len(request: PlanRequest, rules: VllmRules) -> tuple[int | None, bool]:
    text = request.text_flag("", MAX_MODEL_LEN)
    if text.lower() not in ("auto", "-1"):
        return _human(request, MAX_MODEL_LEN), False
    if not rules.auto_max_model_len:
        raise InputError(f"vllm {rules.version} has no --max-model-len {text}", "give the number of tokens")
    return None, True


def _switch(request: PlanRequest, name: str) -> bool | None:
    """A switch with a `--no-` form: True, False, or None when neither was given."""
    if request.has_flag(name):
        value = request.engine_flags[name]
        return value is None or value.lower() not in ("false", "0")
    return False if request.has_flag(f"--no-{name[2:]}") else None


def _env(request: PlanRequest, name: str) -> bool | None:
    """An environment variable written among the flags as NAME=0 or NAME=1; None when it is not there."""
    value = request.engine_flags.get(name)
    return None if value is None else value not in ("0", "")


def _hybrid(request: PlanRequest) -> bool | None:
    if request.has_flag("--enable-hybrid-kv-cache-manager"):
        return True
    disabled = _switch(request, DISABLE_HYBRID)
    return None if disabled is None else not disabled


def _connector(request: PlanRequest) -> str:
    """The KV connector: named, or the one `--kv-offloading-size` stands for (config/vllm.py)."""
    given = json_flag(request, "--kv-transfer-config")
    if given:
        return str(given.get("kv_connector", "?"))
    if request.has_flag("--kv-offloading-size"):
        backend = request.text_flag("native", "--kv-offloading-backend")
        return "OffloadingConnector" if backend == "native" else "LMCacheMPConnector"
    return ""


def _images(request: PlanRequest) -> bool:
    """Whether images are served: not with --language-model-only, nor with a limit of 0 images."""
    if _switch(request, "--language-model-only"):
        return False
    limit = request.text_flag("", "--limit-mm-per-prompt")
    return re.search(r"[\"']?image[\"']?\s*[:=]\s*0\b", limit) is None


def _kv_dtype(request: PlanRequest) -> KvDtype:
    text = request.text_flag("", "--kv-cache-dtype")
    if not text:
        return request.kv_dtype
    if text not in _DTYPES:
        raise InputError(
            f"--kv-cache-dtype {text} is not mirrored for vLLM", f"choose one of {', '.join(_DTYPES)}"
        )
    return _DTYPES[text]
