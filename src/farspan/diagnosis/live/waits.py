"""What a running server waits for: each cause looks at one view of it and says what it sees, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from farspan.diagnosis.live.live_view import LiveView
from farspan.engines.logs.findings import Confidence, Evidence, Finding, Severity
from farspan.engines.metric_source import Measure

_BUSY = 0.9
_IDLE = 0.2
_FULL = 0.95
_LOOKED_UP = 20_000
_HEALTHY_S = 2.0
_TREE = ("radix_cache.py", "match_prefix", "cache_unfinished_req", "hiradix_cache.py", "mamba_radix_cache.py")
_COLLECTIVE = (
    "all_reduce",
    "allreduce",
    "pynccl",
    "parallel_state.py",
    "distributed_c10d.py",
    "shm_broadcast.py",
    "broadcast",
)
_COMPILE = ("_inductor", "triton/compiler", "torch/_dynamo", "cpp_ext.py", "deep_gemm")
_GRAMMAR = ("xgrammar", "outlines", "llguidance", "structured_output", "grammar")
_TOKENIZE = ("tokenization", "tokenizer", "chat_template", "apply_chat_template", "tiktoken")
_FRONT = (
    "APIServer",
    "api_server",
    "http_server",
    "launch_server",
    "tokenizer_manager",
    "detokenizer",
    "TokenizerManager",
)


def _finding(
    view: LiveView,
    id_: str,
    severity: Severity,
    cause: str,
    fix: tuple[str, ...],
    confidence: Confidence,
    seen: str = "",
) -> Finding:
    return Finding(
        id_, severity, cause, Evidence(0, seen or view.figures()), fix, confidence, ("the running server",)
    )


def _is_still(view: LiveView) -> bool:
    """Whether no token moved, in or out."""
    moved = (Measure.GENERATION_TOKENS, Measure.PROMPT_TOKENS, Measure.PREFILLED_TOKENS)
    return not any(view.grew(measure) for measure in moved)


def _unreachable(view: LiveView) -> Finding | None:
    if view.health.status == 200 or (view.health.status in (401, 403, 404) and view.after):
        return None
    if view.health.status == 0 and not view.after:
        return _finding(
            view,
            "live-no-answer",
            Severity.ERROR,
            f"Nothing answers at {view.where} ({view.health.why or 'no answer'}): the server still "
            "starts, has ended, or its event loop is "
            "blocked.",
            (
                "`farspan doctor` with its log says which of these it is (a file, container:NAME or pod:NAME)",
                "`py-spy dump --pid PID` of the API process shows what blocks its loop",
            ),
            Confidence.CERTAIN,
            f"/health: {view.health.why}",
        )
    answered = f"HTTP {view.health.status}" if view.health.status else view.health.why
    return _finding(
        view,
        "live-unhealthy",
        Severity.ERROR,
        f"/health answers {answered} after {view.health.seconds:.1f} s: the engine behind the API has "
        "died, or (SGLang) did not generate "
        "the token that check asks for within 20 s, which one chunk of a long prompt can take.",
        (
            "read its log for the first error: farspan doctor LOG",
            "a probe of a long-context SGLang server belongs on /ping, or set "
            "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=0",
        ),
        Confidence.STRONG,
        f"/health: {answered}",
    )


def _dead_rank(view: LiveView) -> Finding | None:
    ended = [process for process in view.processes if process.state in ("Z", "X")]
    wanted = view.settings.get("tensor_parallel_size", view.settings.get("tp_size"))
    workers = [
        one for one in view.named("Worker", "scheduler", "VllmWorker", "TP") if one.state not in ("Z", "X")
    ]
    missing = isinstance(wanted, int) and wanted > 1 and 0 < len(workers) < wanted
    if not ended and not missing:
        return None
    who = (
        f"process {ended[0].pid} ({ended[0].name[:60] or 'a worker'}) has ended"
        if ended
        else f"{len(workers)} of {wanted} worker processes are there"
    )
    return _finding(
        view,
        "live-dead-rank",
        Severity.ERROR,
        f"A rank is dead: {who}. The others wait for it in a collective, and requests hang.",
        (
            "restart the server; its log has the first error of that rank (farspan doctor LOG)",
            "`dmesg -T` shows whether the kernel killed it",
        ),
        Confidence.STRONG,
    )


def _prefix_tree(view: LiveView) -> Finding | None:
    process = view.stands_in(*_TREE)
    if process is None or process.cpu_share < _BUSY / 2:
        return None
    return _finding(
        view,
        "live-prefix-tree",
        Severity.WARNING,
        f"The scheduler (process {process.pid}) is at work in the prefix tree, on the CPU, at "
        f"{process.cpu_share:.0%} of a core, and the GPU "
        "waits: with long chunked prompts every chunk walks and copies what came before.",
        (
            "--chunked-prefill-size 131072, or larger chunks than now: the tree is asked once a chunk",
            "--disable-radix-cache where prompts share nothing; SGLang from 0.5.8 copies less",
        ),
        Confidence.STRONG,
    )


def _front_end(view: LiveView) -> Finding | None:
    for process in view.named(*_FRONT):
        if process.cpu_share < _BUSY:
            continue
        workers = [one for one in view.processes if one.pid != process.pid]
        if workers and max(one.cpu_share for one in workers) > _BUSY and view.grew(Measure.GENERATION_TOKENS):
            continue
        stack = view.stacks.get(process.pid, ())
        tokenizing = any(any(word in f"{file}:{function}" for word in _TOKENIZE) for file, function in stack)
        doing = (
            "tokenizing or templating a long prompt"
            if tokenizing
            else "in its Python code (tokenizing, detokenizing, or JSON)"
        )
        return _finding(
            view,
            "live-front-end-busy",
            Severity.WARNING,
            f"Process {process.pid} ({process.name[:60]}) is at {process.cpu_share:.0%} of one core, "
            f"{doing}: the API or tokenizer process is "
            "what everything waits for, not the GPU.",
            (
                "vLLM: --api-server-count 4; SGLang: --tokenizer-worker-num 4 (newer versions): several "
                "processes tokenize",
                "send token ids instead of text for very long prompts, and no logprobs nobody reads",
                "/health, too, is answered by that process: give probes a long timeout",
            ),
            Confidence.STRONG,
        )
    return None


def _never_fits(view: LiveView) -> Finding | None:
    if view.now(Measure.RUNNING) or not view.now(Measure.WAITING) or not _is_still(view):
        return None
    if view.before.get(Measure.RUNNING) or not view.before.get(Measure.WAITING):
        return None
    grammar = view.stands_in(*_GRAMMAR)
    if grammar is not None:
        return _finding(
            view,
            "live-grammar",
            Severity.WARNING,
            f"{view.now(Measure.WAITING):.0f} requests wait while process {grammar.pid} compiles a "
            "grammar for structured output.",
            ("simpler or shorter JSON schemas; send the same schema again and it is in the cache",),
            Confidence.STRONG,
        )
    capacity = view.now(Measure.KV_CAPACITY)
    holds = f" The KV pool holds {capacity:,.0f} token slots." if capacity else ""
    return _finding(
        view,
        "live-request-never-fits",
        Severity.ERROR,
        f"{view.now(Measure.WAITING):.0f} requests wait and nothing runs, with "
        f"{view.now(Measure.KV_USAGE):.0%} of the KV cache in use: the "
        "first "
        f"in the queue can never be admitted, most often because it is longer than the cache can hold.{holds}",
        (
            "cancel that request (close its connection): the queue moves on",
            "a lower --max-model-len (SGLang: --context-length) refuses such a request at once; `farspan "
            "plan` says what fits",
            "vLLM to 0.13 keeps every token of window layers unless hybrid KV groups are on; SGLang to "
            "0.5.10 admits by the smaller pool",
        ),
        Confidence.STRONG,
    )


def _preemptions(view: LiveView) -> Finding | None:
    count = view.grew(Measure.PREEMPTIONS)
    if not count:
        return None
    return _finding(
        view,
        "live-preemption-storm",
        Severity.WARNING,
        f"{count:.0f} requests were thrown out of a full KV cache within {view.seconds:.0f} s, and what "
        "they had computed is computed again.",
        (
            "--max-num-seqs (SGLang: --max-running-requests) of what fits at once: capacity over the "
            "length of your requests",
            "more KV cache: --kv-cache-dtype fp8_e4m3, more GPUs",
        ),
        Confidence.CERTAIN,
        f"preemptions +{count:.0f} in {view.seconds:.0f} s; {view.figures()}",
    )


def _no_hits(view: LiveView) -> Finding | None:
    queries, hits = view.now(Measure.PREFIX_QUERIES), view.now(Measure.PREFIX_HITS)
    if queries < _LOOKED_UP or hits:
        return None
    off = (
        view.settings.get("enable_prefix_caching") is False
        or view.settings.get("disable_radix_cache") is True
    )
    why = (
        "the prefix cache is off"
        if off
        else "every prompt is new, or (hybrid Mamba and linear-attention models) states are kept at "
        "block borders only, so that prefixes "
        "are never found"
    )
    return _finding(
        view,
        "live-no-prefix-hits",
        Severity.INFO,
        f"Of {queries:,.0f} prompt tokens looked up in the prefix cache none was found: {why}. Every "
        "prompt is computed whole.",
        (
            "fine for benchmarks of cold prompts; for chats the same beginning must be sent, byte for byte",
            "hybrid models in vLLM: --enable-prefix-caching with --mamba-cache-mode align (newer "
            "versions); SGLang: a version with "
            "mamba_radix_cache, and --mamba-scheduler-strategy extra_buffer",
        ),
        Confidence.LIKELY,
        f"prefix cache: {queries:,.0f} tokens looked up, {hits:,.0f} found",
    )


def _long_prefill(view: LiveView) -> Finding | None:
    if not view.now(Measure.RUNNING) or view.grew(Measure.GENERATION_TOKENS):
        return None
    kv = max(view.after.get(Measure.KV_TOKENS, 0) - view.before.get(Measure.KV_TOKENS, 0), 0)
    grew = view.grew(Measure.PREFILLED_TOKENS) or kv
    used = view.after.get(Measure.KV_USAGE, 0) - view.before.get(Measure.KV_USAGE, 0)
    if not grew and used <= 0:
        return _stuck(view)
    pace = f", {grew / view.seconds:,.0f} tokens/s" if grew else ""
    return _finding(
        view,
        "live-long-prefill",
        Severity.INFO,
        f"A long prompt is being read: {view.now(Measure.RUNNING):.0f} running, no token generated for "
        f"{view.seconds:.0f} s, and the KV cache grows "
        f"({view.now(Measure.KV_USAGE):.1%} in use{pace}). The server works; "
        f"{view.now(Measure.WAITING):.0f} others wait for it.",
        (
            "wait: `farspan plan MODEL --context N` says how long a prompt of N tokens takes",
            "smaller chunks (--max-num-batched-tokens, --chunked-prefill-size) let others in between, "
            "and take longer in all",
        ),
        Confidence.STRONG,
    )


def _stuck(view: LiveView) -> Finding | None:
    process = view.stands_in(*_COMPILE)
    if process is not None:
        return _finding(
            view,
            "live-compiling",
            Severity.INFO,
            f"Process {process.pid} compiles a kernel; requests go on when it is done.",
            ("a compile cache on a volume of its own keeps it for the next start",),
            Confidence.STRONG,
        )
    process = view.stands_in(*_COLLECTIVE)
    where = (
        f" Process {process.pid} stands in a collective or waits for another rank."
        if process is not None
        else ""
    )
    see = (
        ""
        if view.can_see_stacks
        else " (install py-spy here, and run as the server's user or root, to see where)"
    )
    return _finding(
        view,
        "live-step-hangs",
        Severity.WARNING,
        f"{view.now(Measure.RUNNING):.0f} requests run and nothing moved for {view.seconds:.0f} s: "
        "neither tokens nor KV cache. One step takes very "
        f"long, or a rank hangs.{where}",
        (
            f"`py-spy dump --pid PID` of each worker shows the one that is elsewhere than the others{see}",
            "look again after some minutes: --for 60 watches longer",
        ),
        Confidence.LIKELY,
    )


CAUSES: tuple[Callable[[LiveView], Finding | None], ...] = (
    _unreachable,
    _dead_rank,
    _never_fits,
    _prefix_tree,
    _front_end,
    _preemptions,
    _long_prefill,
    _no_hits,
)


def findings_of(view: LiveView) -> Iterator[Finding]:
    """All that is seen, the worst first."""
    found = [finding for cause in CAUSES if (finding := cause(view)) is not None]
    yield from sorted(found, key=lambda finding: list(Severity).index(finding.severity))


def sentences_of(view: LiveView) -> Iterator[str]:
    """Its state in words."""
    if view.after:
        yield (
            f"Now: {view.now(Measure.RUNNING):.0f} requests run, {view.now(Measure.WAITING):.0f} wait, "
            f"{view.now(Measure.KV_USAGE):.1%} of the KV "
            f"cache is in use; within {view.seconds:.0f} s {view.grew(Measure.GENERATION_TOKENS):,.0f} "
            "tokens were generated."
        )
    queries = view.now(Measure.PREFIX_QUERIES)
    if queries:
        yield (
            f"Prefix cache: {view.now(Measure.PREFIX_HITS) / queries:.1%} of {queries:,.0f} prompt tokens "
            "so far were found in it."
        )
    if view.health.status == 200:
        late = " (slow: its event loop is busy)" if view.health.seconds > _HEALTHY_S else ""
        yield f"/health answered after {view.health.seconds:.2f} s{late}."
    for process in sorted(view.processes, key=lambda one: -one.cpu_share)[:4]:
        if process.cpu_share < _IDLE:
            continue
        stack = view.stacks.get(process.pid, ())
        at = f", in {stack[0][1]} ({stack[0][0].rpartition('/')[2]})" if stack else ""
        yield f"Process {process.pid} ({process.name[:60]}) uses {process.cpu_share:.0%} of a core{at}."
    if view.processes and not view.can_see_stacks:
        yield "Stacks cannot be read here: install py-spy (pip install py-spy), and run as the server's user or root."
