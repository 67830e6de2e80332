"""Warnings that look bad and are not: each with why."""

from __future__ import annotations

import re
from typing import NamedTuple

from farspan.engines.logs.pattern import compile_pattern


class Harmless(NamedTuple):
    """One harmless kind of warning; where a rule's finding explains the line, it is no noise."""

    id: str
    pattern: re.Pattern[str]
    why: str


def _harmless(id_: str, words: str, why: str, pattern: str = "") -> Harmless:
    return Harmless(id_, compile_pattern(pattern or re.escape(words)), why)


HARMLESS: tuple[Harmless, ...] = (
    _harmless(
        "shm-broadcast-wait",
        "No available shared memory broadcast block found",
        "Workers are busy loading, compiling or capturing graphs; the message repeats every 60 s until "
        "they are done.",
    ),
    _harmless(
        "omp-threads",
        "Reducing Torch parallelism from",
        "Each worker uses fewer CPU threads so that they do not fight; set OMP_NUM_THREADS to choose.",
    ),
    _harmless(
        "fa3-fp8-e5m2",
        "FlashAttention3 only supports fp8_e4m3",
        "FlashAttention 3 reads an FP8 KV cache only as E4M3, so SGLang takes the triton backend: "
        "right answers, slower "
        "prefill of long prompts. --kv-cache-dtype fp8_e4m3 keeps fa3.",
    ),
    _harmless(
        "hub-retry-local-path",
        "Error retrieving safetensors",
        "A question to the hub about a local folder; the folder itself is read.",
    ),
    _harmless(
        "ray-object-store",
        "The object store is using /tmp instead of /dev/shm",
        "Ray's object store, which serving hardly uses, is on a disk; --shm-size 16g puts it in memory.",
    ),
    _harmless("socket-ipv6", "client socket cannot be initialized to connect to", "IPv6 was tried first; IPv4 works."),
    _harmless("rlimit-nofile", "Fail to set RLIMIT_NOFILE", "The limit of open files stays as it is."),
    _harmless(
        "backend-by-default",
        "Attention backend not explicitly specified",
        "The backend that is best for this GPU is taken.",
    ),
    _harmless("omp-threads-env", "OMP_NUM_THREADS", "A hint about CPU threads; GPU serving does not "
                                                    "depend on it."),
    _harmless(
        "transformers-cache",
        "TRANSFORMERS_CACHE",
        "An old variable that still works; use HF_HOME.",
        r"TRANSFORMERS_CACHE.{0,40}deprecated|deprecated.{0,80}TRANSFORMERS_CACHE",
    ),
    _harmless(
        "rope-parameters",
        "high_freq_factor field must be",
        "A check of the transformers library on RoPE fields; the engines use their own RoPE.",
    ),
    _harmless("ulimit", "Found ulimit "
                        "of", "Matters only with thousands of connections; raise with ulimit -n 65536."),
    _harmless(
        "rlimit", "Fail to set RLIMIT", "Matters only with thousands of connections; start with "
                                        "--ulimit nofile=65536."
    ),
    _harmless("syntax-warning", "SyntaxWarning: ", "A package's source has an odd string; nothing happens."),
    _harmless("leaked-semaphores", "leaked semaphore", "The process was killed before it could tidy "
                                                       "up; Linux does."),
    _harmless("leaked-shared-memory", "leaked shared_memory", "The process was killed before it could "
                                                              "tidy up."),
    _harmless(
        "moe-config",
        "MoE config",
        "There are no tuned MoE kernel settings for this GPU: answers are right, prefill may be "
        "somewhat slower.",
        r"(?:default|Down) MoE config|use MoE kernel config",
    ),
    _harmless(
        "moe-config-fallback",
        "Performance might be sub-optimal",
        "There are no tuned kernel settings for this GPU: answers are right, prefill may be somewhat slower.",
    ),
    _harmless(
        "cudagraph-mode",
        "setting cudagraph_mode=",
        "This attention backend cannot be captured whole; graphs are captured piece by piece.",
    ),
    _harmless(
        "jit-while-serving",
        "kernel JIT compilation during inference",
        "A kernel was compiled for a shape not seen at start: that one request was slower.",
    ),
    _harmless(
        "gdn-compiled",
        "FlashInfer GDN prefill is JIT-compiled",
        "A kernel of Qwen3-Next's layers is compiled in the first step, without a line for minutes (more than four on "
        "16 cores), and kept for the next start; --gdn-prefill-backend triton does without.",
    ),
    _harmless(
        "socket-hostname",
        "hostname of the client socket cannot be retrieved",
        "No reverse DNS for this host; connections work by address.",
    ),
    _harmless("launch-server-deprecated", "is the recommended entrypoint", "The old command still works."),
    _harmless(
        "flag-deprecated",
        "deprecat",
        "A deprecated name still works in this version; see the message for the new one before upgrading.",
        r"(?i)\b(?:is|are|been|has been) deprecated|DeprecationWarning|FutureWarning",
    ),
    _harmless(
        "invalid-http",
        "Invalid HTTP request received",
        "Somebody spoke another protocol (TLS, a port scan) to the port; it was refused.",
    ),
    _harmless("vocab-type", "Vocab type detection failed", "The grammar backend falls back to raw bytes."),
    _harmless("ld-preload", "is not found in LD_PRELOAD", "CPU serving only: a faster allocator could be preloaded."),
    _harmless("no-triton", "Triton is not installed", "There are no GPU kernels to compile on this machine."),
    _harmless("model-runner", "using the V1 model runner instead", "The older of two equal code paths is taken."),
    _harmless("no-onednn", "fallback to torch linear", "CPU serving only: a slower matrix kernel is taken."),
    _harmless("no-moe-layer", "No Llama4MoE layer found", "A dense model: there are no experts to set up."),
    _harmless(
        "inductor-off", "Inductor compilation was disabled by user settings", "What the backend for CPUs always does."
    ),
    _harmless(
        "custom-allreduce",
        "Custom allreduce is disabled",
        "NCCL is used instead: right answers, decode a little slower.",
        r"(?i)custom all-?reduce is disabled",
    ),
    _harmless("symmetric-memory", "SymmMemCommunicator", "NCCL is used "
                                                         "instead.", r"SymmMemCommunicator: .*not"),
    _harmless("tokenizers-fork", "The current process just got "
                                 "forked", "The tokenizer turns its own threads off."),
    _harmless("pynvml", "The pynvml package is deprecated", "Another name of the same package."),
    _harmless("spawn", "We must use the `spawn` "
                       "multiprocessing", "CUDA was touched before; workers start anew."),
    _harmless("nccl-cumem", "NCCL_CUMEM_ENABLE is set to", "A setting vLLM chooses."),
    _harmless("no-vision-weights", "No vision weights found", "The checkpoint is used for text only."),
    _harmless(
        "generation-config",
        "Default vLLM sampling parameters have been overridden",
        "The model's own sampling defaults are used; pass --generation-config vllm for vLLM's.",
        r"[Dd]efault (?:vLLM )?sampling parameters have been overridden",
    ),
    _harmless(
        "destroy-process-group", "destroy_process_group() was not "
                                 "called", "It is said at every exit; Linux tidies up."
    ),
    _harmless("trust-remote-code", "The argument "
                                   "`trust_remote_code`", "The flag has no effect for this class."),
    _harmless("tokenizer-slow", "Using a slow tokenizer", "Tokenizing takes longer; answers are the same."),
    _harmless(
        "shutdown-kill", "force killing", "The server was told to stop and did; leftovers were killed.",
        r"\[shutdown\].*force killing",
    ),
    _harmless("sgl-kill-tree", "kill_process_tree "
                               "called", "SGLang ends all its processes when one has failed."),
    _harmless("triton-version", "Triton is installed "
                                "but", "Triton finds no GPU for this platform; another backend serves."),
    _harmless("exit-hook", "Exception ignored in: ", "Said while Python shuts down; nothing depends on it."),
    _harmless("dtype-cast", "Casting torch", "Weights are kept in another 16-bit type than their file."),
    _harmless("mla-no-fa", "is not supported with "
                           "MLA", "Another attention backend is taken.", r"falling back"),
    _harmless("prefill-graph-off", "Disable prefill CUDA "
                                   "graph", "Prefill runs without graphs; it gains little from them."),
    _harmless("deepgemm-off", "DeepGEMM is disabled", "Another matrix kernel is taken."),
    _harmless("punica", "Regarding multimodal models, vLLM currently only supports adding "
                        "LoRA", "Concerns LoRA only."),
)  # fmt: skip
