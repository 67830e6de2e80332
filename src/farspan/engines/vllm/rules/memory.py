"""What vLLM's memory does not hold: weights, one long request, warm-up, graphs."""

from __future__ import annotations

import math

from farspan.engines.logs.findings import Confidence, Evidence, Severity
from farspan.engines.logs.lower_memory import higher_share, smaller_batch
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.planned_server import planned, spec_of
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, StateRule
from farspan.engines.logs.server_state import ServerState
from farspan.engines.vllm.rules.longest_request import longest_request
from farspan.sizes import GIB

_CONTEXT_TOO_LONG = compile_pattern(
    r"max seq len \((?P<length>\d+)\),? \(?(?P<needed>\d+(?:\.\d+)?) GiB KV cache is needed, which "
    r"is larger than "
    r"the available KV cache memory \((?P<has>\d+(?:\.\d+)?) GiB\)"
    r"(?:.*?estimated maximum model length is (?P<estimate>\d+))?"
    r"|max seq len \((?P<v0_length>\d+)\) is larger than the maximum number of tokens that can be "
    r"stored in KV cache \((?P<v0_holds>\d+)\)"
)


def _context_too_long(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    match = rule_match.match
    length = int(match["length"] or match["v0_length"])
    estimate = int(match["estimate"] or match["v0_holds"] or 0)
    cause = (
        f"One request of --max-model-len {length:,} does not fit the KV cache, which holds {estimate:,} tokens."
        if match["v0_length"]
        else f"One request of --max-model-len {length:,} needs {match['needed']} GiB of KV cache on a GPU and "
        f"{match['has']} GiB are left."
    )
    fix: list[str] = []
    if estimate:
        fix.append(f"--max-model-len {estimate} fits as things are (vLLM's own estimate)")
    if server_state.text("device_config") == "cpu":
        fix.append(f"VLLM_CPU_KVCACHE_SPACE={math.ceil(float(match['needed']))} in the environment (GiB)")
        return Diagnosis(cause.replace(" on a GPU", ""), tuple(fix))
    spec = spec_of(server_state)
    if spec is not None and length > spec.max_position_embeddings:
        fix.append(f"the model itself was made for {spec.max_position_embeddings:,} tokens")
    plan = planned(server_state)
    steps = plan.steps() if plan is not None else ()
    fix.extend(steps)
    if server_state.is_on("disable_hybrid_kv_cache_manager") and not any(
        "--disable-hybrid-kv-cache-manager" in step for step in steps
    ):
        fix.append(
            "drop --disable-hybrid-kv-cache-manager: with hybrid groups, window and chunked layers "
            "keep their window only"
        )
    if not fix or plan is None:
        share = higher_share(server_state)
        if share:
            fix.append(f"or {share}")
        if server_state.text("kv_cache_dtype") in ("", "auto"):
            fix.append("--kv-cache-dtype fp8_e4m3: half the bytes a token")
        fix.append("or a larger --tensor-parallel-size")
    fix.append(
        f"`farspan plan MODEL --gpus NxGPU --engine vllm --context {length}` shows every way with its cost"
    )
    return Diagnosis(cause, tuple(fix))


CONTEXT_TOO_LONG = Rule(
    id="vllm-context-too-long",
    means="vLLM refuses to start: one request of max-model-len does not fit the KV cache.",
    severity=Severity.ERROR,
    pattern=_CONTEXT_TOO_LONG,
    explain=_context_too_long,
    sources=("vllm-project/vllm#34076", "vllm-project/vllm#16118", "vllm v1/core/kv_cache_utils.py"),
)


def _no_cache_blocks(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    weights = server_state.figures.get("weights_gib")
    share = server_state.number("gpu_memory_utilization")
    cause = "Weights and activations use up everything vLLM may take: nothing is left for KV cache"
    details = []
    if weights is not None:
        details.append(f"weights {weights:.1f} GiB")
    if share is not None:
        details.append(f"--gpu-memory-utilization {share:g}")
    cause += f" ({', '.join(details)})." if details else "."
    plan = planned(server_state)
    fix = plan.steps() if plan is not None else ()
    higher = higher_share(server_state)
    return Diagnosis(
        cause,
        (
            *fix,
            *((higher,) if higher else ()),
            "spread the weights: a larger --tensor-parallel-size",
            smaller_batch(server_state),
        ),
    )


NO_CACHE_BLOCKS = Rule(
    id="vllm-no-cache-blocks",
    means="vLLM refuses to start: weights and the profile run leave nothing for KV.",
    severity=Severity.ERROR,
    pattern=compile_pattern(r"No available memory for the cache blocks"),
    explain=_no_cache_blocks,
    sources=("vllm v1/core/kv_cache_utils.py: check_enough_kv_cache_memory",),
)


_SAFE_SHARE = 0.9


def _sampler_warmup_oom(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    requests = int(rule_match.match["requests"])
    share = server_state.number("gpu_memory_utilization")
    spec = spec_of(server_state)
    cause = (
        f"The sampler's warm-up with {requests:,} dummy requests found no memory: its buffers, CUDA "
        f"graphs and block "
        "tables come on top of what --gpu-memory-utilization counts"
    )
    if share is not None:
        cause += f", and {share:g} leaves too little beside it"
    cause += "."
    if spec is not None:
        logits = requests * spec.vocab_size * 4 / GIB
        cause += f" One copy of the logits alone takes {logits:.2f} GiB."
    fix: list[str] = []
    if share is None or share > _SAFE_SHARE:
        fix.append(f"--gpu-memory-utilization {_SAFE_SHARE:.2f}")
    fewer = 8 if requests > 8 else 1
    fix.append(
        f"--max-num-seqs {fewer}: for long contexts a handful of requests at once is all that fits anyway"
    )
    plan = planned(server_state)
    if plan is not None and plan.longest:
        fix.append(
            f"the planner expects {plan.longest:,} tokens of context to fit with the arguments as they are"
        )
    return Diagnosis(cause, tuple(fix))


SAMPLER_WARMUP_OOM = Rule(
    id="vllm-sampler-warmup-oom",
    means=(
        "vLLM runs out of memory in its last warm-up: the sampler's buffers are not in the memory budget."
    ),
    severity=Severity.ERROR,
    pattern=compile_pattern(
        r"CUDA out of memory occurred when warming up (?:sampler|pooler).*? (?P<requests>\d+) dummy"
    ),
    explain=_sampler_warmup_oom,
    sources=("vllm-project/vllm#14452", "vllm-project/vllm#27508", "vllm v1/worker/gpu_model_runner.py"),
)


_FREE_MEMORY = compile_pattern(
    r"(?:Free|Available) memory on (?:device|node) (?:\S+ )?\((?P<free>\d+(?:\.\d+)?)/(?P<total>\d+(?:\.\d+)?) "
    r"GiB\) on startup is "
    r"less than desired (?P<of>[GC])PU memory utilization \((?P<share>[\d.]+), (?P<wanted>\d+(?:\.\d+)?) GiB\)"
)


def _free_memory(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    match = rule_match.match
    free, total, wanted = float(match["free"]), float(match["total"]), float(match["wanted"])
    share = int(free / total * 100) / 100 if total else 0.0
    if match["of"] == "C":
        return Diagnosis(
            f"On a CPU vLLM wants {wanted:.1f} GiB of the machine's memory (--gpu-memory-utilization {match['share']}, "
            f"which counts it there) and {free:.1f} of {total:.1f} GiB are free.",
            (
                f"--gpu-memory-utilization {max(share - 0.1, 0.1):.2f}, and VLLM_CPU_KVCACHE_SPACE=N for N GiB of KV "
                "cache",
                "or end what holds the rest",
            ),
        )
    cause = (
        f"vLLM wants {wanted:.1f} GiB of the GPU (--gpu-memory-utilization {match['share']}) and "
        f"{free:.1f} of "
        f"{total:.1f} GiB are free: other processes hold {total - free:.1f} GiB."
    )
    fix = ["`nvidia-smi` shows who; end what is left of an earlier server, or wait until it has gone"]
    if share >= 0.1:
        fix.append(f"or share the GPU: --gpu-memory-utilization {share:.2f}, with less KV cache")
    return Diagnosis(cause, tuple(fix))


FREE_MEMORY = Rule(
    id="vllm-free-memory",
    means="vLLM refuses to start: something else holds memory of the GPU, or on a CPU of the machine.",
    severity=Severity.ERROR,
    pattern=_FREE_MEMORY,
    explain=_free_memory,
    sources=("vllm-project/vllm#20305", "vllm-project/vllm#25837", "vllm 0.32.0 v1/worker/cpu_worker.py"),
)


_GRAPHS_IN_BUDGET = compile_pattern(
    r"current --gpu-memory-utilization=(?P<now>[\d.]+) is equivalent to "
    r"--gpu-memory-utilization=(?P<old>[\d.]+)"
    r" without.*?increase --gpu-memory-utilization to (?P<same>[\d.]+)"
)


def _graphs_in_budget(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    match = rule_match.match
    now, same = float(match["now"].rstrip(".")), float(match["same"].rstrip("."))
    return Diagnosis(
        f"Memory for CUDA graphs is kept back from the KV cache: --gpu-memory-utilization {now:.4g} "
        f"gives what "
        f"{float(match['old'].rstrip('.')):.4g} gave before 0.21. Nothing is wrong.",
        (f"--gpu-memory-utilization {same:.4g} gives the KV cache of earlier versions",),
    )


GRAPHS_IN_BUDGET = Rule(
    id="vllm-graphs-in-budget",
    means=(
        "From 0.21 vLLM keeps memory back for CUDA graphs: the same utilization gives less KV cache than "
        "before."
    ),
    severity=Severity.INFO,
    pattern=_GRAPHS_IN_BUDGET,
    explain=_graphs_in_budget,
    sources=("vllm 0.24.0 v1/worker/gpu_worker.py",),
)


_CHUNKED = "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE"


def _hybrid_off(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    text = rule_match.message.text
    cause = (
        "Hybrid KV groups are off: every layer keeps every token, also those that only look at a "
        "window or chunk. "
        "The longest request is several times shorter than it could be."
    )
    if _CHUNKED in text:
        fix = [f"set {_CHUNKED}=1 (the default from 0.14)"]
    elif "kv-transfer-config" in text:
        fix = ["drop --kv-transfer-config, or use a connector that supports hybrid groups"]
    else:
        fix = ["drop --disable-hybrid-kv-cache-manager"]
    plan = planned(server_state)
    if plan is not None:
        fix.extend(plan.steps())
    return Diagnosis(cause, tuple(fix))


HYBRID_OFF = Rule(
    id="vllm-hybrid-off",
    means="Hybrid KV groups are off: window and chunked layers keep every token, and contexts are short.",
    severity=Severity.WARNING,
    pattern=compile_pattern(
        r"Turning off hybrid kv cache manager|Hybrid KV cache manager is disabled for this hybrid model"
        rf"|set the environment\s+{_CHUNKED}=1"
    ),
    explain=_hybrid_off,
    sources=("vllm 0.12.0 config/vllm.py", "vllm 0.12.0 v1/core/kv_cache_utils.py"),
)


def _concurrency_below_one(server_state: ServerState) -> Diagnosis | None:
    ratio, length = server_state.figures.get("max_concurrency"), server_state.figures.get("max_model_len")
    if ratio is None or length is None or ratio >= 1:
        return None
    fits = longest_request(server_state) or int(ratio * length)
    cause = (
        f"The server accepts requests of {length:,.0f} tokens and its KV cache holds about {fits:,} "
        f"(concurrency "
        f"{ratio:.2f}x). A longer request is not refused: it waits for ever, with the GPU idle and "
        f"no line in the log."
    )
    fix = [f"--max-model-len {fits} makes the server refuse what it cannot hold"]
    if server_state.is_on("disable_hybrid_kv_cache_manager") or server_state.version_below("0.14.0"):
        fix.insert(
            0,
            "turn hybrid KV groups on: drop --disable-hybrid-kv-cache-manager and set "
            "VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE=1 (the default from 0.14)",
        )
    plan = planned(server_state)
    if plan is not None:
        fix.extend(plan.steps())
    line = server_state.figure_lines.get("max_concurrency", server_state.last.line)
    text = f"Maximum concurrency for {length:,.0f} tokens per request: {ratio:.2f}x"
    return Diagnosis(cause, tuple(fix), Confidence.CERTAIN, evidence=Evidence(line, text))


CONCURRENCY_BELOW_ONE = StateRule(
    id="vllm-concurrency-below-one",
    means=(
        "vLLM (to 0.13) starts although not one request of max-model-len fits: a long one hangs for ever."
    ),
    severity=Severity.WARNING,
    look=_concurrency_below_one,
    sources=("vllm-project/vllm#39734", "vllm 0.12.0 v1/core/kv_cache_utils.py"),
)


def _fp8_e5m2_asserts(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    scales = server_state.is_on("calculate_kv_scales")
    cause = (
        "The attention backend (FlashAttention 3 on Hopper) quantizes the query to E4M3 and takes "
        "only an E4M3 KV "
        "cache: --kv-cache-dtype fp8_e5m2 cannot be used with it."
    )
    if scales:
        cause += " --calculate-kv-scales stands beside it and is not the reason."
    fix = ["--kv-cache-dtype fp8_e4m3"]
    if scales:
        fix.append("drop --calculate-kv-scales when moving to 0.29 or later: the flag is gone there")
    return Diagnosis(cause, tuple(fix))


FP8_E5M2_ASSERTS = Rule(
    id="fp8-e5m2-asserts",
    means="fp8_e5m2 KV cache meets a query quantized to E4M3: vLLM asserts.",
    severity=Severity.ERROR,
    pattern=compile_pattern(r"assert self\.kv_cache_dtype in \{[^}]*fp8"),
    explain=_fp8_e5m2_asserts,
    sources=("vllm 0.12.0 attention/layer.py: Attention.forward", "vllm-project/vllm#42569"),
)

RULES = (
    CONTEXT_TOO_LONG,
    NO_CACHE_BLOCKS,
    SAMPLER_WARMUP_OOM,
    FREE_MEMORY,
    GRAPHS_IN_BUDGET,
    HYBRID_OFF,
    CONCURRENCY_BELOW_ONE,
    FP8_E5M2_ASSERTS,
)
