"""Flags that a plan for SGLang may not pass over: those of other versions, and those whose memory is not mirrored."""

from __future__ import annotations

from farspan.engines.sglang.known_names import flags_of
from farspan.engines.sglang.versions import SglangRules
from farspan.errors import InputError, UnsupportedError
from farspan.models.spec import ModelSpec
from farspan.planner.engine_flags import split_environment
from farspan.planner.request import PlanRequest

_OFF = ("0", "-1", "null", "none", "{}", "false")  # values with which a size or a switch asks for nothing
_ONE_IS_OFF = frozenset(
    {
        "--moe-dp-size",
        "--moe-data-parallel-size",
        "--dwdp-size",
        "--attn-cp-size",
        "--attention-context-parallel-size",
    }
)
_GROUP_OFFLOAD = (
    "weights of every so many layers kept in RAM and fetched ahead; SGLang has it for models built on DeepSeek V2's "
    "code, and ends with a TypeError for others"
)
# What says how groups of layers are offloaded, and alone does nothing.
OFFLOAD_DETAILS = ("--offload-num-in-group", "--offload-prefetch-step", "--offload-mode")
_CONTEXT_PARALLEL = "prefill context parallelism"
_SYMMETRIC = "symmetric-memory buffers"
_LAYERS = "layers shared out in another way"
_STATES = "recurrent states kept in another way"
_KTRANSFORMERS = "experts on the CPU"
# Each changes the arithmetic in ways that are not mirrored: planning on would give a wrong answer. Every other flag of
# the version is either read by `read_flags` or has no part in memory.
NOT_MIRRORED = {
    "--config": "flags in a file that farspan does not see",
    "--encoder-only": "serving a vision encoder alone",
    "--moe-dense-tp-size": _LAYERS,
    "--moe-dp-size": _LAYERS,
    "--moe-data-parallel-size": _LAYERS,
    "--dwdp-size": _LAYERS,
    "--shared-experts-tp-size": _LAYERS,
    "--enable-dense-mlp-attn-tp": _LAYERS,
    "--enable-shared-experts-attn-tp": _LAYERS,
    "--enable-layernorm-sp": _LAYERS,
    "--attn-cp-size": _CONTEXT_PARALLEL,
    "--attention-context-parallel-size": _CONTEXT_PARALLEL,
    "--enable-prefill-context-parallel": _CONTEXT_PARALLEL,
    "--enable-prefill-cp": _CONTEXT_PARALLEL,
    "--enable-nsa-prefill-context-parallel": _CONTEXT_PARALLEL,
    "--enable-dsa-prefill-context-parallel": _CONTEXT_PARALLEL,
    "--enable-dsa-cache-layer-split": "index caches shared out over ranks",
    "--enable-kv-cache-sharding": "a KV cache shared out over ranks",
    "--speculative-draft-model-quantization": "a draft quantized in another way",
    "--speculative-token-map": "a draft of fewer words",
    "--speculative-adaptive": "drafts of changing length",
    "--speculative-use-rejection-sampling": "drafts kept with their probabilities",
    "--enable-multi-layer-eagle": "speculative decoding",
    "--decoupled-spec-role": "speculative decoding",
    "--enable-unified-memory": "the unified pool",
    "--enable-page-major-kv-layout": "another layout of the KV pool",
    "--enable-hisparse": "HiSparse",
    "--enable-double-sparsity": "double sparsity",
    "--hierarchical-sparse-attention-extra-config": "hierarchical sparse attention",
    "--disaggregation-mode": "disaggregated prefill and decode",
    "--enable-pdmux": "prefill and decode at once on one GPU",
    "--enable-two-batch-overlap": "two-batch overlap",
    "--enable-single-batch-overlap": "overlap within a batch",
    "--dllm-algorithm": "diffusion language models",
    "--cuda-graph-config": "CUDA graph settings as JSON (use --cuda-graph-max-bs-decode and the like)",
    "--disable-cuda-graph-padding": "one CUDA graph for every batch size",
    "--enable-piecewise-cuda-graph": "piecewise CUDA graphs before 0.5.10",
    "--enforce-piecewise-cuda-graph": "piecewise CUDA graphs where SGLang switches them off",
    "--piecewise-cuda-graph-tokens": "prefill graph sizes by hand (use the largest size alone)",
    "--cuda-graph-bs-prefill": "prefill graph sizes by hand (use --cuda-graph-max-bs-prefill)",
    "--triton-attention-num-kv-splits": "another number of splits in triton's attention",
    "--triton-attention-split-tile-size": "another number of splits in triton's attention",
    "--offload-group-size": _GROUP_OFFLOAD,
    "--enable-paged-experts": "experts paged in and out",
    "--ple-offload-embedding": "embeddings kept in RAM",
    "--prefill-only-disable-kv-cache": "serving without a KV cache",
    "--uno-lora-path": "LoRA adapters of another kind",
    "--torchao-config": "weights quantized while loading",
    "--modelopt-quant": "weights quantized while loading",
    "--quantize-and-serve": "weights quantized while loading",
    "--rl-quant-profile": "weights quantized while loading",
    "--enable-fp32-lm-head": "the output layer in float32",
    "--ep-num-redundant-experts": "redundant experts",
    "--moe-a2a-backend": "buffers of the experts' exchange",
    "--enable-deepep-moe": "buffers of the experts' exchange",
    "--elastic-ep-backend": "elastic expert parallelism",
    "--enable-symm-mem": _SYMMETRIC,
    "--enable-torch-symm-mem": _SYMMETRIC,
    "--keep-mm-feature-on-device": "image features kept on the GPU",
    "--enable-int8-mamba-checkpoint": _STATES,
    "--enable-linear-replayssm": _STATES,
    "--enable-linear-replayssm-spec": _STATES,
    "--enable-gdn-replayssm-spec": _STATES,
    "--mamba-scheduler-strategy": _STATES,
    "--mamba-radix-cache-strategy": _STATES,
    "--kt-method": _KTRANSFORMERS,
    "--kt-weight-path": _KTRANSFORMERS,
    "--kt-num-gpu-experts": _KTRANSFORMERS,
    "--kt-amx-method": _KTRANSFORMERS,
    "--kt-amx-weight-path": _KTRANSFORMERS,
}
_ONLINE_FP8 = ("fp8", "w8a8_fp8")  # methods that quantize other weights while loading
INT8 = "w8a8_int8"  # takes a checkpoint for INT8 whatever its config says
_STRATEGIES = ("--mamba-scheduler-strategy", "--mamba-radix-cache-strategy")
_LOADERS = ("gguf", "bitsandbytes", "sharded_state", "flash_rl", "layered")
_SAME_DTYPE = {"half": "float16", "float": "float32"}
# Ways to write the method that a checkpoint names otherwise.
_SAME_METHOD = {
    "modelopt_fp8": "modelopt",
    "modelopt_fp4": "modelopt",
    "awq_marlin": "awq",
    "gptq_marlin": "gptq",
}


def _is_off(name: str, value: str | None) -> bool:
    """Whether a value asks for nothing: none of a thing, or one rank where ranks are counted."""
    return value is not None and (value.lower() in _OFF or (value == "1" and name in _ONE_IS_OFF))


def check_flags(request: PlanRequest, rules: SglangRules) -> None:
    """Raise for flags that the version lacks, that change memory in ways not mirrored, or that load other weights.

    Raises:
        InputError: A flag the version does not have, with the nearest that it has.
        UnsupportedError: A flag whose memory is not mirrored.
    """
    if not request.engine_flags:
        return
    given = split_environment(request.engine_flags)[0]
    known = flags_of(rules.version)
    for name, value in given.items():
        if name not in known:
            raise _unknown(name, rules, known)
        what = NOT_MIRRORED.get(name)
        if what and not _is_off(name, value) and not _is_default(name, value, rules):
            instead = ", with --cpu-offload-gb GIB, which is planned" if what == _GROUP_OFFLOAD else ""
            raise UnsupportedError(
                f"{name} ({what}) changes SGLang's memory in a way farspan does not mirror",
                f"plan without {name}{instead}",
            )
    _check_weights(request, request.model)
    if request.text_flag("cuda", "--device") != "cuda":
        raise UnsupportedError(
            f"--device {request.text_flag('', '--device')} is not a GPU", "plan without --device"
        )


def _is_default(name: str, value: str | None, rules: SglangRules) -> bool:
    """Whether a strategy for recurrent states is the one that `auto` comes to from 0.5.14 on (sglang 0.5.16
    arg_groups/overrides.py: _mamba_radix_cache_resolution), whose slots are counted.
    """
    return name in _STRATEGIES and value in ("auto", "extra_buffer") and rules.tracks_states


def _unknown(name: str, rules: SglangRules, known: frozenset[str]) -> InputError:
    if name == "--hybrid-kvcache-ratio":
        return InputError(
            f"sglang {rules.version} has no --hybrid-kvcache-ratio",
            "use --swa-full-tokens-ratio 0.05 instead",
        )
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return InputError(
        f"sglang {rules.version} has no flag {name}",
        f"use {near[0]}" if near else "see python3 -m sglang.launch_server --help",
    )


def quantizes_while_loading(request: PlanRequest) -> bool:
    """Whether --quantization keeps 8 bits a weight where the checkpoint's config says nothing of it."""
    method = request.text_flag("", "--quantization")
    return request.model.quantization is None and method in (*_ONLINE_FP8, INT8)


def _loads_as_planned(method: str, own: str) -> bool:
    """Whether --quantization loads weights of `own` method, empty for none, in bytes that are known."""
    same = _SAME_METHOD.get(method, method)
    if own in (same, same.replace("_", "-")):
        return True
    if not own:
        return method in (*_ONLINE_FP8, INT8)
    return own == "compressed-tensors" and method in ("fp8", "w8a8_fp8", "w8a8_int8")


def _check_weights(request: PlanRequest, model: ModelSpec) -> None:
    """Refuse what would load other weights than the model's."""
    dtype = request.text_flag("auto", "--dtype")
    dtype = _SAME_DTYPE.get(dtype, dtype)
    halves = ("bfloat16", "float16")
    if dtype not in ("auto", model.torch_dtype) and not (dtype in halves and model.torch_dtype in halves):
        raise UnsupportedError(
            f"--dtype {dtype} loads weights of another size than {model.name}'s {model.torch_dtype}",
            "plan without --dtype",
        )
    method = request.text_flag("", "--quantization")
    own = model.quantization.method if model.quantization else ""
    if method and not _loads_as_planned(method, own):
        kept = f"{own} weights" if own else f"weights in {model.torch_dtype}"
        raise UnsupportedError(
            f"--quantization {method} loads {model.name} otherwise than its checkpoint, which has {kept}",
            f"name a checkpoint quantized by {method}, or plan one with --weights fp8 or --weights int4",
        )
    loader = request.text_flag("auto", "--load-format")
    if loader in _LOADERS:
        raise UnsupportedError(
            f"--load-format {loader} loads weights in a way farspan does not mirror",
            "plan without --load-format",
        )
    if request.text_flag("auto", "--model-impl") == "transformers":
        raise UnsupportedError(
            "--model-impl transformers serves another implementation than SGLang's own, whose memory is not mirrored",
            "plan without --model-impl",
        )
