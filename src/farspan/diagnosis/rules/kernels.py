"""GPU kernels that fault, do not fit the GPU, or do not exist for it."""

from __future__ import annotations

from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.lower_memory import eager_flags
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, known
from farspan.engines.logs.server_state import ServerState

_FAULT = compile_pattern(
    r"an illegal memory access was encountered|device-side assert triggered|CUBLAS_STATUS_EXECUTION_FAILED"
    r"|Memory access fault by GPU|HSA_STATUS_ERROR_(?:EXCEPTION|MEMORY_APERTURE_VIOLATION)|"
    r"hipErrorIllegalAddress"
    r"|misaligned address|an illegal instruction was encountered|unspecified launch failure|HW Exception by GPU"
)
_ATTENTION = ("attention", "flash_attn", "flashinfer", "triton_unified", "mla")
_MOE = ("fused_moe", "moe", "deep_gemm", "deepgemm")


def _raised_in(rule_match: RuleMatch, server_state: ServerState, *names: str) -> bool:
    """Whether any traceback of the log goes through one of these files or functions."""
    return rule_match.raised_in(*names) or any(
        error.raised_in(*names) for error in server_state.tracebacks.exceptions
    )


def _fault(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    text = rule_match.message.text
    amd = "Memory access fault" in text or "HSA_" in text or "hip" in text.lower() or "HW Exception" in text
    asserted = next((one.text for one in server_state.tracebacks.exceptions if "Assertion" in one.text), "")
    if "probability tensor" in asserted:
        return None  # the sampler's own assertion: another rule reads it
    if "srcIndex" in asserted or "index out of bounds" in asserted or "IndexKernel" in asserted:
        return Diagnosis(
            "A kernel was asked for a row that a table does not have: a token id beyond the "
            "vocabulary (tokenizer and weights of "
            "different models, added tokens), or a position beyond the model's limit.",
            (
                "tokenizer and model must be of one repository; drop --tokenizer (SGLang: --tokenizer-path)",
                "the context must be within the model's own max_position_embeddings: no "
                "*_ALLOW_LONG_MAX_MODEL_LEN",
                "CUDA_LAUNCH_BLOCKING=1 makes the next traceback show the right place",
            ),
            Confidence.STRONG,
        )
    if _raised_in(rule_match, server_state, "lora_expand", "lora_shrink", "punica", "lora/ops"):
        return _lora_fault(server_state)
    during = (
        f" while it was in {server_state.phase.value}"
        if server_state.phase and not rule_match.was_ready
        else ""
    )
    if amd:
        return Diagnosis(
            f"A kernel on the AMD GPU read or wrote memory that is not its own{during}: a fault of "
            f"that kernel or of its ROCm "
            "version, and not of the settings.",
            (
                "--enforce-eager (SGLang: --disable-cuda-graph) where it happens during graph "
                "capture, to see whether the rest "
                "works",
                "another attention backend (vLLM: --attention-backend TRITON_ATTN, "
                "VLLM_ROCM_USE_AITER=0; SGLang: "
                "--attention-backend triton)",
                "a newer ROCm image of the engine; AMD_LOG_LEVEL=3 and HIP_LAUNCH_BLOCKING=1 name the kernel",
            ),
            Confidence.STRONG,
        )
    experts = _raised_in(rule_match, server_state, *_MOE)
    kernel = "its mixture-of-experts kernels" if experts else "its attention backend"
    fix = [
        f"try another attention backend (--attention-backend), and {eager_flags(server_state)}, to find the kernel",
        "make sure the context is within the model's own limit; then try a newer version",
        "CUDA_LAUNCH_BLOCKING=1 makes the next traceback show the right place",
    ]
    return Diagnosis(
        "A GPU kernel faulted. The line is where it was noticed, not where it happened. With long "
        "contexts: positions beyond "
        f"the model's limit, an index that overflows 32 bits, or a bug of that version in {kernel}.",
        tuple(fix),
        Confidence.LIKELY,
    )


def _lora_fault(server_state: ServerState) -> Diagnosis:
    context = server_state.context
    asked = f" at --max-model-len {context:,}" if context else ""
    return Diagnosis(
        f"The LoRA kernel computes with 32-bit indices, and they overflow{asked}: tokens of a batch "
        f"times the width of the "
        "widest layer is more than 2,147,483,647.",
        (
            f"--max-num-batched-tokens 8192, or a lower "
            f"--max-model-len{f' than {context}' if context else ''}: half of it is "
            "tried first",
            "a version with 64-bit indices in lora_expand and lora_shrink (vLLM after 0.28)",
            "without the adapter (drop --enable-lora; merge it into the weights) the full length works",
        ),
        Confidence.STRONG,
    )


FAULT = Rule(
    id="illegal-memory-access",
    means="A GPU kernel read outside of its memory.",
    severity=Severity.ERROR,
    pattern=_FAULT,
    explain=_fault,
    sources=(
        "vllm-project/vllm#1700",
        "vllm-project/vllm#24430",
        "vllm-project/vllm#17924",
        "vllm-project/vllm#53034",
    ),
)

_RESOURCES = compile_pattern(
    r"(?:OutOfResources: )?out of resource: (?P<what>[\w ]+), Required: (?P<wanted>\d+), Hardware limit: "
    r"(?P<limit>\d+)|"
    r"OutOfResources"
    r"|uses too much shared data|too much shared memory|cudaErrorLaunchOutOfResources|too many "
    r"resources requested for launch"
)


def _resources(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    match = rule_match.match
    wanted = (
        f"{int(match['wanted']):,} bytes of {match['what']} wanted, {int(match['limit']):,} there"
        if match["wanted"]
        else ""
    )
    frames = _raised_in(rule_match, server_state, *_ATTENTION)
    kernel = "the attention kernel" if frames else "a Triton kernel"
    fix = [
        "another attention backend: vLLM --attention-backend FLASHINFER or FLASH_ATTN (to 0.12 "
        "VLLM_ATTENTION_BACKEND), SGLang "
        "--attention-backend flashinfer, where the GPU has it",
        "a newer or older version of the engine: tile sizes by GPU change from one to the next",
    ]
    if frames:
        fix.append(
            "--dtype half on GPUs without bfloat16, and a KV cache of 16 bits: smaller tiles are "
            "chosen for them"
        )
    return Diagnosis(
        f"The tiles of {kernel} are too large for this GPU{f' ({wanted})' if wanted else ''}: they "
        f"were tuned for newer ones, "
        "which have more shared memory a multiprocessor.",
        tuple(fix),
        Confidence.STRONG,
    )


RESOURCES = Rule(
    id="triton-out-of-resources",
    means="A Triton kernel needs more shared memory than the GPU has.",
    severity=Severity.ERROR,
    pattern=_RESOURCES,
    explain=_resources,
    sources=("vllm v1/attention/ops/triton_unified_attention.py", "triton runtime/errors.py: OutOfResources"),
)

_CAPABILITY = compile_pattern(
    r"[Qq]uantization (?:scheme|method \S+).{0,40} (?:is )?not supported.{0,30}the current GPU"
    r"(?:.{0,20}?(?:Min(?:imum)?|Required) capability: (?P<least>\d+)(?:.{0,20}?Current capability: "
    r"(?P<has>\d+))?)?"
    r"|only supported on GPUs with compute capability|FlashAttention only supports Ampere GPUs or newer"
    r"|type fp8e4(?:nv|b8) not supported in this architecture|not supported on (?:this|the current) GPU"
    r"|requires (?:a )?(?:GPU|device)s? with (?:compute )?capability|requires compute capability|SM "
    r"?\d+ or (?:newer|higher)"
    r"|(?:FP8|fp8|NVFP4|MXFP4|nvfp4|mxfp4).{0,40}(?:requires|only "
    r"supported on).{0,40}(?:SM|sm|capability)"
)


def _capability(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    match, text = rule_match.match, rule_match.message.text
    if "Bfloat16" in text:
        return Diagnosis(
            "The model is in bfloat16 and this GPU (before Ampere) cannot compute with it.",
            ("--dtype half", "or a GPU of compute capability 8.0 or more"),
        )
    if match["least"] or "uantization" in text:
        least = f" of {int(match['least']) / 10:.1f} or more" if match["least"] else " above this GPU's"
        has = f", and this GPU has {int(match['has']) / 10:.1f}" if match["has"] else ""
        return Diagnosis(
            f"The checkpoint's quantization scheme needs compute capability{least}{has}: the GPU is "
            f"too old for it.",
            (
                "a checkpoint of the same model in a scheme the GPU has: AWQ or GPTQ (7.5 and up), "
                "16 bits with --dtype half",
                "or a newer GPU (8.0 Ampere, 8.9 Ada for FP8, 9.0 Hopper, 10.0 Blackwell for NVFP4)",
            ),
        )
    return Diagnosis(
        "A kernel the settings ask for does not exist for this GPU's generation: its compute "
        "capability is too low.",
        (
            "--kv-cache-dtype auto where FP8 is the reason (it needs 8.9 or more), --dtype half "
            "where bfloat16 is (8.0)",
            "another attention backend: --attention-backend, of those the message names",
            "a checkpoint in another format, or a newer GPU",
        ),
        Confidence.STRONG,
    )


CAPABILITY = Rule(
    id="gpu-too-old",
    means="A quantization, a number format or a kernel needs a newer GPU.",
    severity=Severity.ERROR,
    pattern=_CAPABILITY,
    explain=_capability,
    sources=(
        "vllm quantization/compressed_tensors: _check_scheme_supported",
        "vllm-project/vllm#1157",
        "vllm-project/vllm#946",
    ),
)

_SHAPE = compile_pattern(
    r"(?P<shape>(?:in|out)put_size(?:_per_partition)?) ?= ?(?P<size>\d+) is not divisible\s+by "
    r"(?P<what>[\w ]+?) ?= ?(?P<unit>\d+)"
    r"|not aligned with the quantized weight shape|is not divisible by weight quantization block|"
    r"undivisible by min_thread"
    r"|(?:input|output) size.{0,60}not divisible by (?:the )?group[_ ]size|group_size .{0,40}not divisible"
    r"|Failed to find a kernel that can implement the (?:WNA16|ScaledMM|\w+) linear layer"
    r"|Marlin does not support|invalid thread config|not divisible by weight quantization"
)


def _shape(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    match, tp = rule_match.match, server_state.tp
    size, unit = match["size"], match["unit"]
    flag = "--tensor-parallel-size"
    cause = (
        f"A quantized layer cannot be cut into {tp} parts"
        if tp > 1
        else "A quantized layer has a shape its kernel cannot"
    )
    if size and unit:
        cause += f": {int(size):,} of its weights a rank are no multiple of {int(unit):,} ({match['what'].strip()})"
    fix = []
    if tp > 1:
        sizes = [one for one in (16, 8, 4, 2, 1) if one < tp]
        if size and unit:
            whole = int(size) * tp
            sizes = [one for one in sizes if whole % one == 0 and (whole // one) % int(unit) == 0]
        fix.append(
            f"{flag} {sizes[0]} (SGLang: --tp-size): the parts are then whole multiples"
            if sizes
            else f"another {flag}: no smaller one goes for this layer"
        )
        fix.append(
            f"or pipeline parallelism instead: --pipeline-parallel-size {tp} with {flag} 1 cuts no layer"
        )
    fix.append(
        "another kernel or checkpoint: --quantization awq or gptq (slower, with smaller units), one "
        "with a smaller group size, "
        "or FP8"
    )
    return Diagnosis(f"{cause}.", tuple(fix), Confidence.CERTAIN if size else Confidence.STRONG)


SHAPE = Rule(
    id="quantized-shape",
    means="A quantized layer cannot be split over so many ranks.",
    severity=Severity.ERROR,
    pattern=_SHAPE,
    explain=_shape,
    sources=(
        "vllm quantization/utils/marlin_utils.py: verify_marlin_supports_shape",
        "vllm quantization/utils/fp8_utils.py",
    ),
)

_BACKEND = compile_pattern(
    r"No valid attention backend found|is not valid for this configuration|Selected backend \S+ is not valid"
    r"|[Aa]ttention backend \S+ is not (?:supported|registered|available)|No attention backend|"
    r"Invalid attention backend"
    r"|(?:does not|doesn't) support (?:this )?(?:head size|head_size|block size|kv.cache.dtype)|"
    r"head_size .{0,20}not supported"
    r"|Head size \d+ is not supported|Unsupported head dim"
)


def _backend(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    reasons = rule_match.message.text.partition("Reason")[2].lstrip("s: ")[:300]
    fix = [
        "drop --attention-backend (to 0.12: VLLM_ATTENTION_BACKEND), where one was asked for: the "
        "engine then takes one that goes"
    ]
    if server_state.text("kv_cache_dtype") not in ("", "auto"):
        fix.append("--kv-cache-dtype auto: not every backend reads an FP8 KV cache on every GPU")
    if server_state.number("block_size", "page_size"):
        fix.append("drop --block-size (SGLang: --page-size): backends allow only some sizes")
    fix.append(
        "install FlashInfer or flash-attn for this torch and CUDA, where a reason says it cannot be imported"
    )
    return Diagnosis(
        "No attention backend goes with this model, GPU and KV cache format together"
        + (f": {reasons.strip()}" if reasons.strip(" .") else "")
        + ("" if reasons.strip().endswith(".") else "."),
        tuple(fix),
        Confidence.STRONG,
    )


BACKEND = Rule(
    id="no-attention-backend",
    means="No attention backend goes with the model, the GPU and the KV cache format.",
    severity=Severity.ERROR,
    pattern=_BACKEND,
    explain=_backend,
    sources=("vllm platforms/cuda.py: get_attn_backend_cls", "vllm platforms/rocm.py"),
)

_ALL_REDUCE = compile_pattern(
    r"custom_all_reduce\.cuh:\d+|custom_all_reduce.{0,80}invalid argument|open_ipc_handle|cudaIpcOpenMemHandle"
)


def _all_reduce(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    return Diagnosis(
        "Custom all-reduce shares GPU memory between the ranks, and CUDA refused. Memory that "
        "PyTorch allocates with "
        "expandable_segments:True cannot be shared so: PYTORCH_CUDA_ALLOC_CONF (or "
        "PYTORCH_ALLOC_CONF) is set to it. In a container "
        "without --ipc=host, or with GPUs without peer access, the same line means that.",
        (
            "unset PYTORCH_CUDA_ALLOC_CONF and PYTORCH_ALLOC_CONF (no expandable_segments with "
            "tensor parallelism)",
            "or --disable-custom-all-reduce: NCCL is used, decode gets a little slower",
            "docker run --ipc=host, where it was not set",
        ),
        Confidence.STRONG,
    )


ALL_REDUCE = Rule(
    id="custom-all-reduce",
    means="Custom all-reduce cannot share memory: expandable segments, or no IPC.",
    severity=Severity.ERROR,
    pattern=_ALL_REDUCE,
    explain=_all_reduce,
    sources=("vllm csrc/custom_all_reduce.cuh", "vllm-project/vllm#46125"),
)

RULES: tuple[Rule, ...] = (
    ALL_REDUCE,
    RESOURCES,
    CAPABILITY,
    SHAPE,
    BACKEND,
    FAULT,
    known(
        "tma-descriptor",
        "A kernel could not set up its tensor-memory descriptor.",
        r"TMA Desc|initialize the TMA descriptor|cuTensorMapEncodeTiled",
        "A kernel for Hopper or Blackwell could not describe a tensor to the GPU: a shape or address "
        "it was not made for, most "
        "often a batch or a split that leaves a rank with nothing, or a driver older than the kernels.",
        "another MoE or attention backend, another --tensor-parallel-size; --enforce-eager (SGLang: "
        "--disable-cuda-graph) shows "
        "whether graph capture is the reason",
        "a newer version of the engine and its FlashInfer or CUTLASS kernels, a newer driver",
        sources=("NVIDIA/cutlass cute/arch/copy_sm90_desc.hpp", "CUDA driver API: cuTensorMapEncodeTiled"),
        confidence=Confidence.LIKELY,
    ),
)
