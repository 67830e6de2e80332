"""How failures are worded, by engine and version: facts, of which the tests make logs.

Every rule without a log of its own in tests/evidence has its wordings here, and lines that look like it and are not.
"""

from __future__ import annotations

from typing import NamedTuple

from failing_logs import SGLANG, VLLM_V0, VLLM_V1


class Wording(NamedTuple):
    """One exception that ends a start, as some version words it."""

    style: str
    error: str
    frames: tuple[tuple[str, str], ...] = ()
    args: str = ""
    says: tuple[str, ...] = ()


WORDINGS: dict[str, tuple[Wording, ...]] = {
    "vllm-free-memory": (
        Wording(
            VLLM_V1,
            "ValueError: Available memory on node 0 (13.13/23.59 GiB) on startup is less than desired CPU memory "
            "utilization (0.92, 21.7 GiB). On the CPU backend, the `--gpu-memory-utilization` flag controls the "
            "fraction of CPU memory reserved (despite its name).",
            (("vllm/v1/worker/cpu_worker.py", "__init__"),),
            says=("21.7 GiB of the machine's memory", "--gpu-memory-utilization 0.45"),
        ),
    ),
    "no-nvcc": (
        Wording(
            VLLM_V1,
            "RuntimeError: Could not find nvcc and default cuda_home='/opt/cuda' doesn't exist",
            (("vllm/v1/sample/ops/topk_topp_sampler.py", "flashinfer_sample"),),
            says=("VLLM_USE_FLASHINFER_SAMPLER=0", "flashinfer-jit-cache"),
        ),
        Wording(
            SGLANG,
            "RuntimeError: Ninja build failed. Ninja output:\n[1/3] /cu/bin/nvcc -c x.cu\n/bin/sh: "
            "1: /cu/bin/nvcc: not found\n"
            "ninja: build stopped: subcommand failed.",
            says=("CUDA_HOME",),
        ),
        Wording(
            VLLM_V0,
            "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.",
        ),
        Wording(
            VLLM_V1,
            "RuntimeError: Ninja build failed. Ninja output:\n/bin/sh: 1: :/usr/lib/cuda/bin/nvcc: not found",
            says=("begins with a colon", "export CUDA_HOME=/usr/lib/cuda"),
        ),
    ),
    "compiler-too-old": (
        Wording(
            VLLM_V1,
            "triton.runtime.errors.PTXASError: PTXAS error: Internal Triton PTX codegen "
            "error\n`ptxas` stderr:\n"
            "ptxas fatal   : Value 'sm_103a' is not defined for option 'gpu-name'",
            says=("TRITON_PTXAS_PATH", "sm_103a"),
        ),
        Wording(
            SGLANG,
            "RuntimeError: Ninja build failed. Ninja output:\nFAILED: [code=1] a.cuda.o\n"
            "nvcc fatal   : Unsupported gpu architecture 'compute_120a'\nninja: build stopped: "
            "subcommand failed.",
            says=("compute_120a", "CUDA_HOME"),
        ),
        Wording(VLLM_V1, "RuntimeError: No supported CUDA architectures found for major versions [10]."),
        Wording(SGLANG, "RuntimeError: FlashInfer requires GPUs with sm75 or higher", says=("ARCH_LIST",)),
    ),
    "wheels-do-not-match": (
        Wording(
            VLLM_V1,
            "ImportError: libcudart.so.11.0: cannot open shared object file: No such file or directory",
            (("vllm/_custom_ops.py", "<module>"),),
            says=("for CUDA 11",),
        ),
        Wording(
            SGLANG,
            "ImportError: /x/sgl_kernel/common_ops.abi3.so: undefined symbol: _ZNK3c106SymInt6sym_neERKS0_",
            (("sgl_kernel/__init__.py", "<module>"),),
            says=("another version of torch",),
        ),
        Wording(
            VLLM_V1,
            "ImportError: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by x.so)",
        ),
    ),
    "package-missing": (
        Wording(
            VLLM_V1,
            "ModuleNotFoundError: No module named 'mistral_common'",
            says=("pip install mistral_common",),
        ),
        Wording(
            VLLM_V0, "ImportError: Please install bitsandbytes>=0.46.1 via `pip install bitsandbytes>=0.46.1`"
        ),
    ),
    "hub-rate-limit": (
        Wording(
            VLLM_V1,
            "huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many Requests for url: "
            "https://huggingface.co/api/models/m/one (Request ID: Root=1-0)",
            says=("HF_HUB_OFFLINE=1",),
        ),
        Wording(
            SGLANG,
            "requests.exceptions.HTTPError: 429 Client Error: Too Many Requests for url: "
            "https://huggingface.co/m/one/resolve/main/a",
        ),
    ),
    "hub-xet-transfer": (
        Wording(
            VLLM_V1,
            "RuntimeError: Data processing error: CAS service error : IO Error: error sending request",
            says=("HF_HUB_DISABLE_XET",),
        ),
        Wording(
            SGLANG,
            "RuntimeError: Data processing error: File reconstruction error: CAS Client "
            "Error: Request error: 500",
        ),
    ),
    "processor-files-missing": (
        Wording(
            VLLM_V1,
            "OSError: Can't load image processor for '/models/one'. If you were trying to load it "
            "from 'https://huggingface.co/models', "
            "make sure '/models/one' is the correct path to a directory containing a "
            "preprocessor_config.json file",
        ),
        Wording(
            SGLANG,
            "OSError: Can't load tokenizer for '/models/one'. Otherwise, make sure it is the correct path",
        ),
    ),
    "transformers-mismatch": (
        Wording(
            VLLM_V1,
            "AttributeError: 'LlamaTokenizerFast' object has no attribute "
            "'all_special_tokens_extended'. Did you mean: 'x'?",
            says=("transformers<5",),
        ),
        Wording(
            SGLANG,
            "ImportError: cannot import name 'AutoModelForVision2Seq' from 'transformers' (/x/__init__.py)",
        ),
        Wording(VLLM_V1, "AttributeError: 'Qwen3Config' object has no attribute 'rope_theta'"),
        Wording(
            SGLANG,
            "AttributeError: 'TiktokenTokenizer' object has no attribute 'all_special_ids'",
            (("sglang/srt/managers/detokenizer_manager.py", "event_loop"),),
            says=("upgrade SGLang",),
        ),
    ),
    "weights-not-used": (
        Wording(
            VLLM_V1,
            "ValueError: There is no module or parameter named 'model.vision_tower' in LlamaForCausalLM",
        ),
        Wording(
            VLLM_V0,
            "ValueError: Following weights were not initialized from checkpoint: {'lm_head.weight'}",
        ),
    ),
    "nan-probabilities": (
        Wording(
            VLLM_V0,
            "RuntimeError: probability tensor contains either `inf`, `nan` or element < 0",
            says=("VLLM_COMPUTE_NANS_IN_LOGITS",),
        ),
        Wording(
            SGLANG,
            "ValueError: Detected errors during sampling! NaN in the logits.",
            args="reasoning_parser='qwen3', ",
            says=("--reasoning-parser qwen3",),
        ),
    ),
    "nccl-cuda-error": (
        Wording(
            VLLM_V1,
            "RuntimeError: NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
            says=("NCCL_P2P_DISABLE",),
        ),
        Wording(
            SGLANG,
            "torch.distributed.DistBackendError: NCCL error in: /p/NCCLUtils.cpp:77, "
            "unhandled cuda error, NCCL version 2.27.3",
        ),
    ),
    "nccl-duplicate-gpu": (
        Wording(VLLM_V1, "RuntimeError: NCCL error: invalid usage (run with NCCL_DEBUG=WARN for details)"),
        Wording(
            SGLANG,
            "torch.distributed.DistBackendError: ncclInvalidUsage: Duplicate GPU detected : "
            "rank 1 and rank 0 both on 1b000",
        ),
    ),
    "peer-gone": (
        Wording(
            VLLM_V1,
            "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed "
            "by peer [10.0.0.3]:23312",
        ),
        Wording(
            SGLANG,
            "torch.distributed.DistBackendError: [3] is setting up NCCL communicator and retrieving "
            "ncclUniqueId from [0] via c10d "
            "key-value store by key '0', but store->get('0') got error: Connection reset by peer",
        ),
    ),
    "weights-of-another-shape": (
        Wording(
            VLLM_V1,
            "AssertionError: Attempted to load weight (torch.Size([2048, 5120])) into parameter "
            "(torch.Size([1024, 5120]))",
        ),
        Wording(SGLANG, "AssertionError: assert param_data.shape == loaded_weight.shape"),
    ),
    "gloo-interface": (
        Wording(
            VLLM_V1,
            "RuntimeError: Gloo connectFullMesh failed with [/x/gloo/transport/tcp/pair.cc:144] no error",
            says=("GLOO_SOCKET_IFNAME",),
        ),
        Wording(
            SGLANG,
            "RuntimeError: [enforce fail at /x/gloo/transport/tcp/device.cc:84] ifa != "
            "nullptr. Unable to find interface for: ens9",
        ),
    ),
    "ray-placement": (
        Wording(
            VLLM_V1,
            "ValueError: Cannot provide a placement group requiring 16 GPUs "
            "(placement_group_specs=[{'GPU': 1.0}]) within 1800 seconds.",
            says=("VLLM_HOST_IP", "ray status"),
        ),
        Wording(
            VLLM_V0,
            "ValueError: The number of required GPUs exceeds the total number of available "
            "GPUs in the placement group.",
        ),
    ),
    "mig-device": (
        Wording(
            VLLM_V1,
            "ValueError: invalid literal for int() with base 10: 'MIG-b8f1c7e2-0000-5b5a-9a0a-1f0b2c3d4e5f'",
        ),
        Wording(
            VLLM_V0,
            "pynvml.NVMLError_InvalidArgument: nvmlDeviceGetMemoryInfo of a MIG slice is "
            "not supported here: MIG 1g not supported",
        ),
    ),
    "user-without-name": (
        Wording(VLLM_V1, "KeyError: 'getpwuid(): uid not found: 1000840000'", says=("USER=vllm",)),
        Wording(SGLANG, "OSError: No username set in the environment"),
    ),
    "fork-after-cuda": (
        Wording(
            VLLM_V1,
            "RuntimeError: Cannot re-initialize CUDA in forked subprocess. To use CUDA with "
            "multiprocessing, you must use the 'spawn' "
            "start method",
            says=("VLLM_WORKER_MULTIPROC_METHOD=spawn",),
        ),
        Wording(VLLM_V0, "RuntimeError: Cannot re-initialize CUDA in forked subprocess."),
    ),
    "custom-all-reduce": (
        Wording(
            VLLM_V1,
            "RuntimeError: cancelled\nFailed: Cuda error /workspace/csrc/custom_all_reduce.cuh:371 "
            "'invalid argument'",
            says=("--disable-custom-all-reduce", "expandable_segments"),
        ),
        Wording(
            SGLANG,
            "RuntimeError: CUDA error at sgl-kernel/csrc/allreduce/custom_all_reduce.cuh:355 "
            "invalid argument",
        ),
    ),
    "triton-out-of-resources": (
        Wording(
            VLLM_V1,
            "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 98304, "
            "Hardware limit: 65536. Reducing",
            (("vllm/v1/attention/ops/prefix_prefill.py", "context_attention_fwd"),),
            says=("98,304 bytes", "attention kernel"),
        ),
        Wording(
            SGLANG,
            "triton.runtime.errors.OutOfResources: out of resource: registers, Required: "
            "90000, Hardware limit: 65536.",
        ),
    ),
    "gpu-too-old": (
        Wording(
            VLLM_V1,
            "RuntimeError: Quantization scheme is not supported for the current GPU. Min "
            "capability: 89. Current capability: 86.",
            says=("8.9", "8.6"),
        ),
        Wording(
            VLLM_V0,
            "ValueError: The quantization method fp8 is not supported for the current GPU. "
            "Minimum capability: 80. "
            "Current capability: 75.",
        ),
        Wording(
            SGLANG,
            "ValueError: type fp8e4nv not supported in this architecture. The supported fp8 "
            "dtypes are ('fp8e4b15', 'fp8e5')",
        ),
    ),
    "quantized-shape": (
        Wording(
            VLLM_V1,
            "ValueError: Weight output_size_per_partition = 10944 is not divisible by weight "
            "quantization block_n = 128.",
            says=("10,944", "128"),
        ),
        Wording(
            VLLM_V0,
            "ValueError: Weight input_size_per_partition = 14784 is not divisible by min_thread_k = "
            "128. Consider reducing "
            "tensor_parallel_size",
            says=("--tensor-parallel-size 1",),
        ),
        Wording(
            SGLANG,
            "ValueError: The input size is not aligned with the quantized weight shape. This "
            "can be caused by too large TP",
        ),
    ),
    "no-attention-backend": (
        Wording(
            VLLM_V1,
            "ValueError: No valid attention backend found for cuda with "
            "AttentionSelectorConfig(head_size=80). Reasons: {FLASH_ATTN: "
            "[head_size not supported]}.",
            says=("head_size not supported",),
        ),
        Wording(
            VLLM_V0,
            "ValueError: Head size 80 is not supported by PagedAttention. Supported head sizes are: [64, 96]",
        ),
    ),
    "tma-descriptor": (
        Wording(
            SGLANG,
            "RuntimeError: cancelled\nTMA Desc Addr:   0x7ffd1a\nError: Failed to initialize "
            "the TMA descriptor 1",
        ),
        Wording(VLLM_V1, "RuntimeError: cancelled\nError: Failed to initialize the TMA descriptor 700"),
    ),
    "vllm-engine-ready-timeout": (
        Wording(
            VLLM_V1,
            "TimeoutError: Timed out waiting for engines to send initial message on input socket.",
            says=("VLLM_ENGINE_READY_TIMEOUT_S",),
        ),
        Wording(
            VLLM_V1,
            "TimeoutError: Timed out waiting for engine core processes to start. This is often "
            "caused by slow weight loading. Waited "
            "600s (configured by VLLM_ENGINE_READY_TIMEOUT_S).",
        ),
    ),
    "vllm-mamba-blocks": (
        Wording(
            VLLM_V1,
            "ValueError: max_num_seqs (512) exceeds available Mamba cache blocks (77). Each decode "
            "sequence requires one",
            says=("--max-num-seqs 77",),
        ),
        Wording(VLLM_V1, "AssertionError: max_num_seqs (1024) exceeds available Mamba cache blocks (969)."),
    ),
    "vllm-memory-profiling": (
        Wording(
            VLLM_V1,
            "AssertionError: Error in memory profiling. Initial free memory 20.50 GiB, current free "
            "memory 31.25 GiB. This happens",
            says=("from 20.5 to 31.2 GiB",),
        ),
        Wording(
            VLLM_V0,
            "AssertionError: Error in memory profiling. Initial free memory: 22011707392, current "
            "free memory: 33554432000. This happens",
        ),
    ),
    "vllm-port-variable": (
        Wording(
            VLLM_V1,
            "ValueError: VLLM_PORT 'tcp://10.43.0.7:8000' appears to be a URI. This may be "
            "caused by a Kubernetes service",
        ),
        Wording(VLLM_V0, "ValueError: invalid literal for int() with base 10: 'tcp://10.43.0.7:8000'"),
    ),
    "vllm-batch-below-length": (
        Wording(
            VLLM_V1,
            "ValueError: max_num_batched_tokens (2048) is smaller than max_model_len "
            "(32768). This effectively limits",
        ),
        Wording(
            VLLM_V0,
            "ValueError: max_num_batched_tokens (64) must be greater than or equal to max_num_seqs (256).",
        ),
    ),
    "lora-rank": (
        Wording(VLLM_V1, "ValueError: LoRA rank 64 is greater than max_lora_rank 16."),
        Wording(VLLM_V0, "ValueError: LoRA rank 32 is greater than max_lora_rank 16."),
    ),
    "sglang-pool-leak": (
        Wording(
            SGLANG,
            "ValueError: token_to_kv_pool_allocator memory leak detected! "
            "self.max_total_num_tokens=4096, available_size=4000",
            says=("SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE=0",),
        ),
        Wording(SGLANG, "ValueError: KV cache pool leak detected!"),
    ),
    "sglang-decode-out-of-memory": (
        Wording(
            SGLANG,
            "RuntimeError: Decode out of memory. Try to lower your batch size.\nTry to allocate 60 tokens.",
            args="page_size=32, max_running_requests=64, ",
            says=("--page-size 1", "--max-running-requests 32"),
        ),
        Wording(SGLANG, "RuntimeError: Prefill out of memory. Try to lower your batch size."),
    ),
    # Wordings of rules that have a log of their own already, of other versions.
    "vllm-context-too-long": (
        Wording(
            VLLM_V0,
            "ValueError: The model's max seq len (131072) is larger than the maximum number of "
            "tokens that can be stored in KV cache "
            "(41648). Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when "
            "initializing the engine.",
            says=("--max-model-len 41648",),
        ),
    ),
    "model-not-found": (
        Wording(
            VLLM_V1,
            "OSError: m/one is not a local folder and is not a valid model identifier "
            "listed on 'https://huggingface.co/models'",
        ),
        Wording(
            SGLANG, "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error. (Request ID: Root=1-0)"
        ),
    ),
    "no-gpu": (
        Wording(VLLM_V1, "RuntimeError: No HIP GPUs are available", says=("/dev/kfd",)),
        Wording(SGLANG, "RuntimeError: No CUDA GPUs are available", says=("--gpus all",)),
    ),
    "no-kernel-image": (
        Wording(
            VLLM_V1,
            "torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device",
        ),
        Wording(
            SGLANG,
            "RuntimeError: HIP error: hipErrorNoBinaryForGpu: Unable to find code object for "
            "all current devices!",
        ),
    ),
    "driver-too-old": (
        Wording(
            VLLM_V1,
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 803: system "
            "has unsupported display driver",
            says=("compat",),
        ),
        Wording(
            SGLANG,
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
            says=("nvidia-fabricmanager",),
        ),
        Wording(
            VLLM_V0,
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 804: forward "
            "compatibility was attempted on non",
            says=("data-centre",),
        ),
    ),
    "illegal-memory-access": (
        Wording(
            VLLM_V1,
            "RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered",
            (("vllm/lora/ops/triton_ops/lora_shrink_op.py", "_lora_shrink"),),
            args="'max_model_len': 200000, ",
            says=("32-bit", "200,000"),
        ),
        Wording(
            VLLM_V1,
            "RuntimeError: cancelled\nMemory access fault by GPU node-2 (Agent handle: 0x1) "
            "on address 0x7f. Reason: Unknown.",
            says=("AMD",),
        ),
    ),
    "cuda-oom-starting": (
        Wording(
            VLLM_V1,
            "RuntimeError: CUDA error: out of memory",
            (("torch/cuda/graphs.py", "capture_end"),),
            args="'gpu_memory_utilization': 0.97, ",
            says=("--gpu-memory-utilization 0.92", "--enforce-eager"),
        ),
        Wording(
            VLLM_V1,
            "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 96.00 GiB. GPU 0 "
            "has a total capacity of 63.98 GiB of "
            "which 60.00 GiB is free.",
            (("vllm/model_executor/models/qwen2_5_vl.py", "forward"),),
            says=("--limit-mm-per-prompt",),
        ),
        Wording(
            SGLANG,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 "
            "has a total capacity of 79.1 GiB of which "
            "1.00 GiB is free.",
            (("sglang/srt/model_loader/loader.py", "load_model"),),
            says=("--tp-size",),
        ),
    ),
    "rendezvous-timeout": (
        Wording(
            VLLM_V0,
            "torch.distributed.DistNetworkError: The client socket has timed out after "
            "600000ms while trying to connect to "
            "(172.19.0.4, 40113).",
            says=("VLLM_HOST_IP=127.0.0.1", "container bridge"),
        ),
    ),
}

# Lines a healthy server prints (or survives) that hold the words of a failure.
LOOK_ALIKES: dict[str, tuple[str, ...]] = {
    "peer-gone": ("WARNING 05-01 10:00:30 [x.py:1] Connection reset by peer while sending usage statistics",),
    "weights-of-another-shape": ("WARNING 05-01 10:00:30 [x.py:1] loaded weight has another dtype",),
    "no-nvcc": ("WARNING 05-01 10:00:30 [x.py:1] Could not find nvcc, DeepGEMM is off",),
    "compiler-too-old": ("INFO 05-01 10:00:30 [x.py:1] ptxas info : Used 40 registers",),
    "wheels-do-not-match": (
        "WARNING 05-01 10:00:30 [x.py:1] Failed to import from vllm._C with "
        "ImportError('libcudart.so.12: cannot open shared "
        "object file: No such file or directory')",
    ),
    "package-missing": (
        "WARNING 05-01 10:00:30 [x.py:1] ModuleNotFoundError: No module named 'flash_attn'; using another",
    ),
    "hub-rate-limit": (
        "WARNING 05-01 10:00:30 [x.py:1] HTTP Error 429 thrown while requesting HEAD "
        "https://huggingface.co/m. Retrying in 1s",
    ),
    "hub-xet-transfer": (
        "WARNING 05-01 10:00:30 [x.py:1] Xet Storage is enabled for this repo, but the "
        "'hf_xet' package is not installed",
    ),
    "processor-files-missing": (
        "WARNING 05-01 10:00:30 [x.py:1] Can't load image processor for text use; none is needed",
    ),
    "transformers-mismatch": (
        "WARNING 05-01 10:00:30 [x.py:1] This model requires transformers >= 4.50, which is installed",
    ),
    "nan-probabilities": (
        "WARNING 05-01 10:00:30 [x.py:1] Detected errors during sampling in the dummy run",
    ),
    "nccl-cuda-error": ("h:1:2 [0] NCCL INFO cudaDriverVersion 12080",),
    "nccl-duplicate-gpu": ("h:1:2 [0] NCCL INFO Init COMPLETE, rank 1 of 2, no duplicate",),
    "gloo-interface": (
        "[Gloo] Rank 0 is connected to 1 peer ranks. Expected number of connected peer ranks is : 1",
    ),
    "ray-placement": (
        "INFO 05-01 10:00:30 [ray_utils.py:1] Waiting for creating a placement group of "
        "specs for 10 seconds.",
    ),
    "mig-device": ("INFO 05-01 10:00:30 [x.py:1] Device 0 is MIG-b8f1c7e2",),
    "user-without-name": ("bash: cannot find name for group ID 1000840000",),
    "fork-after-cuda": (
        "WARNING 05-01 10:00:30 [x.py:1] We must use the `spawn` multiprocessing start method.",
    ),
    "custom-all-reduce": (
        "WARNING 05-01 10:00:30 [custom_all_reduce.py:1] Custom allreduce is disabled "
        "because of unsupported world size",
    ),
    "triton-out-of-resources": (
        "WARNING 05-01 10:00:30 [x.py:1] autotuner: OutOfResources for one config, skipped",
    ),
    "quantized-shape": (
        "WARNING 05-01 10:00:30 [x.py:1] Layer lm_head is not divisible by weight "
        "quantization block: kept in 16 bits",
    ),
    "no-attention-backend": (
        "INFO 05-01 10:00:30 [cuda.py:1] Using FLASH_ATTN attention backend out of potential backends",
    ),
    "tma-descriptor": ("INFO 05-01 10:00:30 [x.py:1] TMA is used for loads",),
    "bad-flag-value": ("INFO 05-01 10:00:30 [x.py:1] argument --attention-backend: a choice was made",),
    "vllm-engine-ready-timeout": (
        "INFO 05-01 10:00:30 [utils.py:1] Waiting for 1 local, 0 remote core engine proc(s) to start.",
    ),
    "vllm-worker-ended": ("INFO 05-01 10:00:30 [x.py:1] no fatal signal from worker processes",),
    "vllm-mamba-blocks": ("INFO 05-01 10:00:30 [x.py:1] Mamba cache blocks: 969, max_num_seqs (256)",),
    "vllm-memory-profiling": ("INFO 05-01 10:00:30 [x.py:1] Memory profiling takes 4.26 seconds",),
    "vllm-port-variable": ("WARNING 05-01 10:00:30 [envs.py:1] Found VLLM_PORT in the environment: 8001",),
    "vllm-batch-below-length": (
        "INFO 05-01 10:00:30 [x.py:1] Chunked prefill is enabled with max_num_batched_tokens=2048.",
    ),
    "lora-rank": ("INFO 05-01 10:00:30 [x.py:1] Loaded new LoRA adapter: rank 16, max_lora_rank 16",),
    "sglang-pool-leak": ("[2026-05-01 10:01:00] no leak in any pool",),
    "sglang-decode-out-of-memory": (
        "[2026-05-01 10:01:00 TP0] Decode batch, #running-req: 1, #token: 9, "
        "token usage: 0.99, #queue-req: 0, ",
    ),
    "client-disconnected": ("INFO 05-01 10:00:30 [x.py:1] a client connected",),
    "weights-not-used": ("INFO 05-01 10:00:30 [x.py:1] All weights were initialized from the checkpoint",),
    "stopped-while-starting": ("INFO 05-01 10:00:30 [x.py:1] signal handlers installed for SIGTERM",),
    "stopped-unserved": ("INFO 05-01 10:00:30 [x.py:1] will shut down on SIGTERM",),
}
