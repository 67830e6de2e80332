"""vLLM's start: its command line, its environment, and processes that wait for each other."""

from __future__ import annotations

from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.records import StartPhase
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, known
from farspan.engines.logs.server_state import ServerState

ENTRYPOINT_DOUBLED = known(
    "vllm-entrypoint-doubled",
    "The container's command repeats what its entrypoint already says.",
    (
        r"error: unrecognized arguments: (?:(?:.*?\s)?-m\s+vllm\.entrypoints|(?:vllm )?serve\b"
        r"|python3?\b|/bin/(?:ba)?sh\b)"
        r"|unrecognized arguments: .*\bvllm\.entrypoints\.openai\.api_server\b"
        r"|invalid choice: '(?:vllm|python3?)'|\"vllm serve (?:python3?|vllm|-m|/bin/)"
    ),
    "The image's entrypoint already is `vllm serve` (older images: the API server), and the "
    "container's command "
    "repeats it: vLLM reads those words as arguments, and the container ends with code 2 within "
    "seconds.",
    "start the command with the model: docker run [OPTIONS] vllm/vllm-openai:TAG MODEL [FLAGS]",
    "or replace the entrypoint: docker run --entrypoint python3 IMAGE -m "
    "vllm.entrypoints.openai.api_server --model MODEL",
    sources=("vllm-project/vllm#22072", "vllm-project/vllm#37133", "observed on vllm 0.12.0"),
)


_READY_TIMEOUT = compile_pattern(
    r"[Tt]imed out waiting for (?:new )?(?:engines?|engine core processes) to (?:send|start|be ready)"
    r"|RPC server .{0,40}did not (?:start|respond)|VLLM_ENGINE_READY_TIMEOUT_S"
)


def _ready_timeout(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    if "imed out" not in rule_match.message.text and "did not" not in rule_match.message.text:
        return None
    during = server_state.phase.value if server_state.phase is not None else "its start"
    progress = ""
    percent = server_state.percent
    if percent is not None and server_state.phase is StartPhase.WEIGHTS:
        progress = f" (the weights were at {percent:.0f} %)"
    return Diagnosis(
        f"The API server waits a fixed time for the engine to be ready, and the engine was still in "
        f"{during}{progress} when it was "
        "over: nothing failed, the start is slower than the limit (600 s from 0.15 on, before that "
        "as much for one message).",
        (
            "VLLM_ENGINE_READY_TIMEOUT_S=3600 in the environment",
            "make loading faster: weights on a local NVMe disk, --safetensors-load-strategy prefetch "
            "or --load-format "
            "runai_streamer or fastsafetensors; `farspan serve MODEL` plans how long it takes",
            "if the log stood still in that phase, a rank hangs: look at the workers' own output",
        ),
        Confidence.STRONG,
    )


READY_TIMEOUT = Rule(
    id="vllm-engine-ready-timeout",
    means="The API server gave up waiting for an engine that still started.",
    severity=Severity.ERROR,
    pattern=_READY_TIMEOUT,
    explain=_ready_timeout,
    sources=("vllm v1/engine/core_client.py", "vllm envs.py: VLLM_ENGINE_READY_TIMEOUT_S"),
)


def _worker_ended(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:  # noqa: ARG001
    failure = server_state.failure
    if failure is not None and not failure.is_wrapper:
        return None
    during = f" while it was in {server_state.phase.value}" if server_state.phase is not None else ""
    return Diagnosis(
        f"A worker process failed{during}, and its own error is not in this log. vLLM up to 0.8 then "
        f"kills its whole process group: "
        "'Killed' after that line is its own doing, and not the host's.",
        (
            "the worker's traceback is on standard error of the same start: capture both streams "
            "(2>&1), and look above the line",
            "the likeliest reason at this place is GPU memory: `nvidia-smi` for other processes, then a lower "
            "--gpu-memory-utilization or --max-model-len",
            "VLLM_LOGGING_LEVEL=DEBUG, and --tensor-parallel-size 1 with a small model, show whether "
            "one rank alone starts; vLLM "
            "from 0.9 on prints the worker's error",
        ),
        Confidence.STRONG,
    )


WORKER_ENDED = Rule(
    id="vllm-worker-ended",
    means="A worker failed without its error in the log; vLLM to 0.8 then kills itself.",
    severity=Severity.ERROR,
    pattern=compile_pattern(r"[Gg]ot fatal signal from worker processes"),
    explain=_worker_ended,
    sources=("vllm 0.8.4 v1/executor/multiproc_executor.py", "vllm 0.8.4 v1/engine/core_client.py"),
)

_MAMBA = compile_pattern(
    r"max_num_seqs \((?P<asked>\d+)\) exceeds available Mamba cache blocks \((?P<blocks>\d+)\)"
)


def _mamba_blocks(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    asked, blocks = int(rule_match.match["asked"]), int(rule_match.match["blocks"])
    length = server_state.context
    return Diagnosis(
        f"A hybrid (Mamba or linear-attention) model needs one state block a running request, and "
        f"what memory is left has {blocks:,} of "
        f"them for --max-num-seqs {asked:,}.",
        (
            f"--max-num-seqs {blocks}, or fewer"
            + (
                f": {length:,} tokens of context let a handful run at once anyway"
                if length and length >= 32_768
                else ""
            ),
            "or more memory for the cache: a higher --gpu-memory-utilization (not above 0.94), a "
            "larger --tensor-parallel-size",
        ),
    )


MAMBA_BLOCKS = Rule(
    id="vllm-mamba-blocks",
    means="More requests at once than a hybrid model has state blocks.",
    severity=Severity.ERROR,
    pattern=_MAMBA,
    explain=_mamba_blocks,
    sources=("vllm 0.28.0 config/compilation.py",),
)

_PROFILING = compile_pattern(
    r"Error in memory profiling\.(?:.{0,20}?Initial free memory:? (?P<before>[\d.]+)(?: GiB)?, "
    r"current free memory:? "
    r"(?P<after>[\d.]+))?"
)


def _profiling(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    before, after = rule_match.match["before"], rule_match.match["after"]
    grew = ""
    if before and after:
        unit = 1.0 if float(before.rstrip(".")) < 10_000 else 2.0**30
        grew = f" (from {float(before.rstrip('.')) / unit:.1f} to {float(after.rstrip('.')) / unit:.1f} GiB)"
    return Diagnosis(
        f"Free GPU memory grew{grew} while vLLM measured what it needs: another process on that GPU, "
        f"most often an earlier server that was "
        "still ending, gave memory back, and the measurement is worth nothing.",
        (
            "wait until `nvidia-smi` shows the GPU free, or end the neighbour, and start again",
            "two servers that share a GPU: start the second when the first is ready; "
            "--kv-cache-memory-bytes sets the cache without "
            "measuring",
        ),
    )


MEMORY_PROFILING = Rule(
    id="vllm-memory-profiling",
    means="Another process released GPU memory while vLLM measured.",
    severity=Severity.ERROR,
    pattern=_PROFILING,
    explain=_profiling,
    sources=("vllm v1/worker/gpu_worker.py: determine_available_memory",),
)

RULES: tuple[Rule, ...] = (
    ENTRYPOINT_DOUBLED,
    READY_TIMEOUT,
    WORKER_ENDED,
    MAMBA_BLOCKS,
    MEMORY_PROFILING,
    known(
        "vllm-port-variable",
        "A Kubernetes Service called vllm sets VLLM_PORT to an address.",
        r"VLLM_PORT '[^']*' (?:appears to be a URI|must be a valid integer)|invalid literal for "
        r"int\(\) with base 10: 'tcp://",
        "Kubernetes sets VLLM_PORT=tcp://ADDRESS:PORT for a Service called vllm, and vLLM reads that "
        "variable as a port number.",
        "call the Service otherwise (vllm-server), or set enableServiceLinks: false in the pod's spec",
        "or set VLLM_PORT to a number in the container's env",
        sources=("vllm envs.py: get_vllm_port", "vllm docs: Kubernetes"),
    ),
    known(
        "vllm-batch-below-length",
        "Without chunked prefill a batch must hold the longest prompt.",
        r"max_num_batched_tokens \(\d+\) (?:is smaller than max_model_len|must be greater than or "
        r"equal to max_num_seqs)",
        "Without chunked prefill one batch must hold the longest prompt (and a token of each running request): "
        "--max-num-batched-tokens is smaller than that.",
        "--enable-chunked-prefill (on by default in V1), where the model allows it",
        "or --max-num-batched-tokens as large as --max-model-len, or a shorter --max-model-len",
        sources=("vllm config/scheduler.py",),
    ),
    known(
        "lora-rank",
        "An adapter has a higher rank than the server allows.",
        r"LoRA rank \d+ is greater than max_lora_rank",
        "The LoRA adapter has a higher rank than the server keeps memory for.",
        "--max-lora-rank as large as the rank in the adapter's adapter_config.json (8, 16, 32, 64, "
        "128, 256, 320 or 512)",
        sources=("vllm lora/peft_helper.py",),
    ),
)
