"""Failures that need nothing from the rest of the log: words, cause, fix."""

from __future__ import annotations

from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.rule import Rule, known

RULES: tuple[Rule, ...] = (
    known(
        "architecture-unsupported",
        "This version of the engine does not know the model's architecture.",
        r"Model architectures \[.{1,200}?\] (?:are not supported for now|failed to be inspected)|is "
        r"not supported, the supported archs|has no vLLM implementation|Unsupported architectures",
        "This version of the engine does not know the model's architecture, or failed to import the "
        "module that has it (then another error stands above).",
        "use a newer image of the engine: the model's card says from which version",
        "if the name is in the printed list of supported ones, an import failed: read the error above it",
        sources=("vllm-project/vllm#9713", "vllm-project/vllm#22231", "vllm-project/vllm#32338"),
    ),
    known(
        "bfloat16-unsupported",
        "The GPU has no bfloat16.",
        "Bfloat16 is only supported on GPUs with compute capability of at least",
        "The model is in bfloat16 and this GPU (before Ampere) cannot compute with it.",
        "--dtype half",
        "or a GPU of compute capability 8.0 or more",
        sources=("vllm-project/vllm#1157", "vllm-project/vllm#946"),
    ),
    known(
        "checkpoint-truncated",
        "A weight file is not complete.",
        "SafetensorError|MetadataIncompleteBuffer|HeaderToo(?:Large|Small)|InvalidHeaderDeserialization",
        "A weight file is cut short or is not one: a download was interrupted, or the file is a Git "
        "LFS pointer.",
        "download it again: hf download OWNER/NAME --force-download",
        "a file of some hundred bytes is a Git LFS pointer: git lfs pull",
        sources=("vllm-project/vllm#15445", "QwenLM/Qwen3-VL#264", "gpustack/gpustack#815"),
    ),
    known(
        "disk-full",
        "A disk is full.",
        "No space left on device",
        "A disk is full: the model cache, the compile cache, /tmp, or, for a file under /dev/shm, "
        "the shared memory.",
        "`df -h` inside the container shows which; mount a larger volume at HF_HOME",
        "for /dev/shm: docker run --shm-size 16g",
        sources=("huggingface/text-generation-inference#3087", "NVIDIA/Megatron-LM#878"),
    ),
    known(
        "driver-too-old",
        "The GPU driver is older than the image's CUDA.",
        "NVIDIA driver on your system is too old|CUDA driver version is insufficient|unsatisfied "
        "condition: cuda|forward compatibility was attempted",
        "The GPU driver of this machine is older than the CUDA the image was built with.",
        "update the driver on the host (the container's own libraries cannot help)",
        "or use an image built for an older CUDA, such as one whose tag says cu126",
        sources=("vllm-project/vllm#1772", "vllm-project/vllm#5635"),
    ),
    known(
        "fp8-kv-unscaled",
        "An FP8 KV cache without scaling factors: exactness over long contexts may suffer.",
        r"Using KV cache scaling factor 1\.0 for fp8_e4m3|Using FP8 KV cache but no scaling factors "
        r"provided",
        "KV is kept in FP8 with a scale of 1.0, because the checkpoint has no scales. It halves the "
        "memory; recall over long contexts may suffer and should be measured.",
        "`farspan bench --url URL --contexts 1M --task needle` shows whether it does",
        "where it does: --kv-cache-dtype auto, or a checkpoint with KV scales",
        sources=("vllm model_executor/layers/quantization/kv_cache.py", "sglang 0.5.16, observed"),
        severity=Severity.INFO,
    ),
    known(
        "gated-model",
        "The hub does not let this token read the model.",
        r"gated repo|GatedRepoError|(?:401|403) Client Error.{0,80}huggingface\.co|Access to model "
        r"\S+ is restricted",
        "The model is gated: the hub answers 401 or 403 because no token was given, or its owner has "
        "not accepted the licence.",
        "accept the licence on the model's page, and pass HF_TOKEN in the environment (docker run -e "
        "HF_TOKEN, a Kubernetes Secret)",
        "the token needs read access to gated repositories",
        sources=("vllm-project/vllm#8331", "skypilot-org/skypilot#2634"),
    ),
    known(
        "hub-unreachable",
        "The hub cannot be reached and the files are not there.",
        r"We couldn't connect to 'https://huggingface\.co'|LocalEntryNotFoundError|"
        r"huggingface\.co.{0,200}Max retries exceeded|Max retries exceeded with "
        r"url.{0,300}huggingface|outgoing traffic has been disabled",
        "The model is not (wholly) in the cache and the hub cannot be reached.",
        "download it first where there is a network (hf download OWNER/NAME), and mount that cache",
        "then set HF_HUB_OFFLINE=1: the engine asks nobody",
        sources=("huggingface/huggingface_hub docs: offline mode",),
    ),
    known(
        "illegal-memory-access",
        "A GPU kernel read outside of its memory.",
        "an illegal memory access was encountered|device-side assert triggered",
        "A GPU kernel faulted. The line is where it was noticed, not where it happened. With long "
        "contexts: positions beyond the model's limit, an index that overflows 32 bits, or a bug of "
        "that version's attention backend.",
        "try another attention backend (--attention-backend), and --enforce-eager or "
        "--disable-cuda-graph, to find the kernel",
        "make sure the context is within the model's own limit; then try a newer version",
        "CUDA_LAUNCH_BLOCKING=1 makes the next traceback show the right place",
        sources=("vllm-project/vllm#1700", "vllm-project/vllm#24430", "vllm-project/vllm#17924"),
        confidence=Confidence.LIKELY,
    ),
    known(
        "model-not-found",
        "There is no such model, neither on the hub nor at that path.",
        r"is not a local folder and is not a valid model identifier|RepositoryNotFoundError|Repo id "
        r"must be in the form|does not appear to have a file named config\.json|Invalid repository "
        r"ID or local directory",
        "The model's name is neither a folder inside the container nor a repository on the hub.",
        "check the spelling; a path must be the path inside the container, mounted with -v",
        "a folder must hold config.json: of a hub cache give .../snapshots/HASH, not the folder above",
        sources=("vllm-project/vllm v0.12 transformers_utils/config.py",),
    ),
    known(
        "nccl-system-error",
        "NCCL could not set up its connections.",
        "unhandled system error|ncclSystemError|NCCL_ERROR_SYSTEM_ERROR|ncclRemoteError|ncclInternalError",
        "NCCL could not set up its connections between the ranks: most often too little shared "
        "memory, a network interface it must not use, or limits of the container.",
        "docker run --shm-size 16g --ulimit memlock=-1",
        "several nodes: NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the right interface",
        "NCCL_DEBUG=INFO makes the next run say which call failed",
        sources=("vllm-project/vllm#10626", "vllm-project/vllm#6574", "vllm-project/vllm#19613"),
        confidence=Confidence.LIKELY,
    ),
    known(
        "nccl-timeout",
        "A collective operation did not finish: one rank is missing.",
        "Watchdog caught collective operation timeout",
        "A collective operation waited until its timeout: one rank had died, hung, or was busy with "
        "something the others were not.",
        "look for the first error of another rank before this line: that is the reason",
        "where one step is really that long: --dist-timeout 3600 (SGLang), "
        "--distributed-timeout-seconds (vLLM)",
        sources=("sgl-project/sglang#3784", "sgl-project/sglang#3932"),
        confidence=Confidence.STRONG,
    ),
    known(
        "no-compiler",
        "There is no C compiler, and Triton needs one.",
        r"Failed to find C compiler|Python\.h: No such file|Could not find nvcc|ninja: not found|No "
        r"such file or directory: '(?:ninja|nvcc)'",
        "Kernels are compiled when the server starts, and the compiler (gcc, nvcc, ninja) or "
        "Python's headers are not there.",
        "apt-get install -y build-essential python3-dev, or an image that has them (a -runtime image "
        "may not)",
        "set CC to the compiler's path when there is one",
        sources=("vllm-project/vllm#2997", "sgl-project/sglang#1067", "vllm-project/vllm#14075"),
    ),
    known(
        "no-gpu",
        "No GPU is visible to the engine.",
        "Failed to infer device type|No CUDA GPUs are available|Found no NVIDIA driver|no "
        "CUDA-capable device is detected",
        "The engine sees no GPU.",
        "docker: add --gpus all (and install nvidia-container-toolkit); Kubernetes: resources.limits "
        "nvidia.com/gpu",
        "`nvidia-smi` inside the container must list the GPUs; CUDA_VISIBLE_DEVICES must not be empty",
        sources=("vllm-project/vllm#12847", "vllm-project/vllm#13946"),
    ),
    known(
        "no-kernel-image",
        "The image was built without kernels for this GPU.",
        "no kernel image is available for execution on the device",
        "The image has no kernels for this GPU's generation: the GPU is newer than the image, or too "
        "old for it.",
        "a newer image (Blackwell needs one built with CUDA 12.8 or later)",
        "on old GPUs: build the engine from source with TORCH_CUDA_ARCH_LIST set",
        sources=("vllm-project/vllm#20193", "vllm-project/vllm#19906", "vllm-project/vllm#14452"),
    ),
    known(
        "port-in-use",
        "Another process listens on that port.",
        "(?i)address already in use|EADDRINUSE",
        "Another process already listens on the port: an earlier server that still ends, or one that "
        "was left.",
        "`ss -ltnp` shows who; end it, or choose another --port",
        "several servers on one host also need different --nccl-port or VLLM_PORT values",
        sources=("vllm-project/vllm#8638", "vllm-project/vllm#9225", "vllm-project/vllm#7514"),
    ),
    known(
        "read-only-cache",
        "The model cache is mounted read-only, and the engine writes into it.",
        r"\[Errno 30\] Read-only file system(?:: '(?P<path>[^']*)')?|PermissionError: \[Errno 13\] "
        r"Permission denied: '[^']*(?:cache|huggingface|hub)[^']*'",
        "The engine cannot write into its cache: given a hub id it writes lock files and metadata "
        "even when every file is there, and the cache is mounted read-only or belongs to another "
        "user.",
        "mount the cache writable: docker run -v ~/.cache/huggingface:/root/.cache/huggingface (no :ro)",
        "or give the snapshot's folder instead of the hub id: .../models--OWNER--NAME/snapshots/HASH",
        "or set HF_HOME to a writable folder, with HF_HUB_OFFLINE=1 when nothing may be fetched",
        sources=(
            "huggingface/huggingface_hub#2797",
            "llm-d-incubation/llm-d-modelservice#243",
            "vllm-project/vllm#20127",
        ),
    ),
    known(
        "rendezvous-timeout",
        "The nodes did not find each other.",
        "DistNetworkError|DistStoreError|[Tt]imed out after .{0,60}waiting for clients|The client "
        "socket has timed out",
        "The processes of this server did not all reach the rendezvous: a node was not started, or "
        "its address or port cannot be reached.",
        "start every node with the same --dist-init-addr (SGLang) or head address (vLLM), and "
        "--node-rank of its own",
        "open that port between the nodes; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the interface",
        sources=("sgl-project/sglang#3932",),
        confidence=Confidence.STRONG,
    ),
    known(
        "shared-memory-too-small",
        "The container's /dev/shm is too small for the ranks.",
        r"Error while (?:creating|attaching to) shared memory segment|Fatal Python error: Bus error|"
        r"\bBus error\b|SIGBUS received|unable to (?:allocate|open) shared memory|/dev/shm has only "
        r"\d+ bytes",
        "/dev/shm is too small: the ranks exchange data through it, and a container gets 64 MiB "
        "unless told otherwise.",
        "docker run --shm-size 16g (or --ipc=host)",
        "Kubernetes: an emptyDir with medium: Memory mounted at /dev/shm",
        sources=(
            "vllm-project/vllm#1771",
            "vllm-project/vllm#859",
            "MiniMax-AI/MiniMax-01#42",
            "NVIDIA/nccl#2190",
        ),
        confidence=Confidence.STRONG,
    ),
    known(
        "too-many-open-files",
        "The process may not open more files.",
        "^\\s*OSError: \\[Errno 24\\] Too many open files|accept\\(\\).*Too many open files",
        "The process reached its limit of open files and connections.",
        "docker run --ulimit nofile=1048576:1048576, or ulimit -n 65536 before the start",
        sources=("vllm utils/system_utils.py: set_ulimit",),
    ),
    known(
        "transformers-too-old",
        "The transformers library is older than the model.",
        "model type `?(?P<type>[\\w-]+)`? but Transformers does not recognize this architecture",
        "The transformers library in this environment is older than the model and cannot read its config.",
        "use a newer image of the engine; upgrading transformers alone breaks the pair the engine "
        "was tested with",
        sources=("vllm-project/vllm#19793",),
    ),
    known(
        "trust-remote-code",
        "The model brings its own code and was not allowed to run it.",
        "(?:requires you to execute the configuration file|contains custom code|please pass the "
        "argument `trust_remote_code=True`|set the option `trust_remote_code=True`)",
        "The model brings its own Python code, and engines run that only when told to.",
        "read the code, then add --trust-remote-code",
        "or use a newer engine that has the architecture built in",
        sources=("vllm docs: trust-remote-code",),
    ),
)
