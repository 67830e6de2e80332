"""What SGLang's memory does not hold: pools, tables, graphs, the host's copy."""

from __future__ import annotations

from farspan.engines.logs import out_of_memory as oom
from farspan.engines.logs.findings import Confidence, Evidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.planned_server import planned
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, StateRule
from farspan.engines.logs.server_state import ServerState
from farspan.sizes import GIB

_LEAST_ROWS = 2048


_FEW_ROWS = 8


_LARGE_GIB = 1.0


def is_pool(rule_match: RuleMatch) -> bool:
    """Whether the traceback goes through SGLang's memory pools."""
    return rule_match.raised_in(
        "memory_pool.py",
        "swa_memory_pool.py",
        "kv_cache_configurator.py",
        "_create_buffers",
        "init_memory_pool",
    ) and not rule_match.raised_in("init_cuda_graph_state")


def _pool_oom(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    if rule_match.was_ready or not is_pool(rule_match):
        return None
    words = oom.read(rule_match.match).words()
    context, given = server_state.context, server_state.number("max_running_requests")
    rows = int(given) if given else _LEAST_ROWS
    table = 0.0 if context is None else rows * (context + 4) * 4 / GIB
    plan = planned(server_state)
    steps = plan.steps() if plan is not None else ()
    if context is not None and table >= _LARGE_GIB:
        few = _FEW_ROWS * (context + 4) * 4 / GIB
        fraction = server_state.number("mem_fraction_static")
        return Diagnosis(
            f"Out of GPU memory while building the KV pool ({words}). The pool itself is within "
            f"--mem-fraction-static"
            f"{f' {fraction:g}' if fraction else ''}; what is not is the request-to-token table, "
            f"{rows:,} rows x {context + 4:,} x 4 bytes = {table:.1f} GiB on every GPU, built before "
            f"the pool and never "
            "subtracted from it. The pool, filled layer by layer, only reports it.",
            (
                f"--max-running-requests {_FEW_ROWS}: the table takes {few:.2f} GiB",
                *steps,
                "lowering --mem-fraction-static does not shrink the table and is no cure",
            ),
            Confidence.STRONG if given else Confidence.CERTAIN,
        )
    return Diagnosis(
        f"Out of GPU memory while building the KV pool ({words}).",
        (*steps, "lower --mem-fraction-static by 0.05 at a time"),
        Confidence.LIKELY,
    )


POOL_OOM = Rule(
    id="sglang-pool-oom",
    means=(
        "SGLang runs out of memory while it builds its pools: the request-to-token table grew with the "
        "context."
    ),
    severity=Severity.ERROR,
    pattern=oom.PATTERN,
    explain=_pool_oom,
    sources=(
        "observed on sglang 0.5.6.post2 and 0.5.16",
        "sglang srt/mem_cache/memory_pool.py: ReqToTokenPool",
    ),
)


_FEW_ROWS = 8


def is_graph_state(rule_match: RuleMatch) -> bool:
    """Whether the traceback goes through the tables of CUDA graphs."""
    return rule_match.raised_in("init_cuda_graph_state")


def _graph_tables_oom(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    if not is_graph_state(rule_match):
        return None
    read = oom.read(rule_match.match)
    context = server_state.context
    cause = f"Out of GPU memory for the tables of CUDA graphs ({read.words()})"
    fix = [
        f"--max-running-requests {_FEW_ROWS}: shrinks these tables and the request-to-token table at once",
        f"or --cuda-graph-max-bs {_FEW_ROWS}, or --disable-cuda-graph (decode gets slower)",
    ]
    if context is not None and read.wanted_gib is not None:
        batch = round(read.wanted_gib * GIB / (context * 4))
        one = f"{read.wanted_gib:.2f} GiB"
        cause += (
            f": {one} = {batch} requests x {context:,} tokens x 4 bytes for one table, and there are several"
        )
        fix[0] += f" ({_FEW_ROWS * context * 4 / GIB:.2f} GiB each)"
    plan = planned(server_state)
    steps = plan.steps() if plan is not None else ()
    return Diagnosis(
        f"{cause}. They grow with the context and are outside --mem-fraction-static.",
        (*fix, *steps),
        Confidence.CERTAIN,
    )


GRAPH_TABLES_OOM = Rule(
    id="sglang-graph-tables-oom",
    means=(
        "SGLang runs out of memory for the tables its CUDA graphs need: batch sizes x context x 4 bytes each."
    ),
    severity=Severity.ERROR,
    pattern=oom.PATTERN,
    explain=_graph_tables_oom,
    sources=(
        "sgl-project/sglang#8538",
        "observed on sglang 0.5.6.post2",
        "sglang srt/layers/attention/flashattention_backend.py: init_cuda_graph_state",
    ),
)


def _capture_failed(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    why = rule_match.match["why"].strip()
    if any(
        function == "init_cuda_graph_state"
        for one in server_state.tracebacks.exceptions
        for _, function in one.frames
    ):
        return None
    if not why:
        failure = server_state.tracebacks.first(max(rule_match.message.where.line - 60, 0))
        inner = failure.short if failure is not None and not failure.is_wrapper else ""
        fix = [
            "--disable-cuda-graph starts without graphs (decode gets slower) and shows whether they "
            "are the reason"
        ]
        if server_state.is_on("enable_torch_compile"):
            fix.insert(0, "drop --enable-torch-compile: it does not go with every attention backend")
        return Diagnosis(
            "Capturing CUDA graphs failed and SGLang prints no reason"
            + (f"; inside it: {inner[:200]}" if inner else "")
            + (
                ". --enable-torch-compile is on, which this attention backend may not be made for."
                if len(fix) > 1
                else "."
            ),
            tuple(fix),
            Confidence.STRONG,
        )
    if "out of memory" in why:
        fraction = server_state.number("mem_fraction_static")
        lower = (
            f"--mem-fraction-static {fraction - 0.05:.2f}"
            if fraction and fraction > 0.2
            else "a lower --mem-fraction-static"
        )
        return Diagnosis(
            "There was no memory left to capture CUDA graphs: weights and KV pool took it.",
            (f"{lower}", "--max-running-requests 8 and --cuda-graph-max-bs 8: fewer and smaller graphs"),
            Confidence.CERTAIN,
        )
    return Diagnosis(
        f"Capturing CUDA graphs failed: {why[:200]}.",
        (
            "--disable-cuda-graph starts without them (decode gets slower) and shows whether they "
            "are the reason",
        ),
        Confidence.STRONG,
    )


CAPTURE_FAILED = Rule(
    id="sglang-capture-failed",
    means="SGLang could not capture its CUDA graphs.",
    severity=Severity.ERROR,
    pattern=compile_pattern(r"Capture (?:cuda|CUDA) graph failed: ?(?P<why>.*)"),
    explain=_capture_failed,
    sources=("sgl-project/sglang#4489", "sgl-project/sglang#5285", "sgl-project/sglang#9706"),
)


def _not_enough_memory(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    free, weights = server_state.figures.get("free_before_gib"), server_state.figures.get("weights_gib")
    fraction = server_state.number("mem_fraction_static")
    if fraction is None and rule_match.match["fraction"]:
        fraction = float(rule_match.match["fraction"])
    cause = "The weights take all that --mem-fraction-static allows: no KV pool fits beside them"
    fix: list[str] = []
    if free and weights:
        least = weights / free
        cause += f" (weights {weights:.1f} of {free:.1f} GiB are a fraction of {least:.2f}"
        cause += f", and {fraction:g} is set)" if fraction is not None else ")"
        wanted = min(least + 0.1, 0.95)
        if wanted > least:
            fix.append(
                f"--mem-fraction-static {wanted:.2f} or more: the fraction covers weights and KV pool "
                f"together"
            )
    plan = planned(server_state)
    if plan is not None:
        fix.extend(plan.steps())
    if not fix:
        fix.append("a higher --mem-fraction-static: the fraction covers weights and KV pool together")
    fix.append("or a larger --tp-size, or an FP8 checkpoint")
    return Diagnosis(f"{cause}.", tuple(fix))


NOT_ENOUGH_MEMORY = Rule(
    id="sglang-not-enough-memory",
    means="SGLang has no room for a KV pool: the weights take more than the static fraction.",
    severity=Severity.ERROR,
    pattern=compile_pattern(
        r"Not enough memory\. Please try to increase --mem-fraction-static\.?"
        r"(?:.*?mem_fraction_static=(?P<fraction>\d*\.\d+))?"
    ),
    explain=_not_enough_memory,
    sources=("sgl-project/sglang#322", "sgl-project/sglang#4330"),
)


_UNBALANCED = compile_pattern(
    r"The memory capacity is unbalanced\."
    r"(?:.*?(?:min_per_gpu_memory"
    r"|pre_model_load_memory)=(?P<least>[\d.]+).*?local_gpu_memory=(?P<here>[\d.]+))?"
)


def _unbalanced(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    match = rule_match.match
    seen = ""
    if match["least"]:
        least, here = (float(match[name].rstrip(".")) for name in ("least", "here"))
        seen = f" (the fullest has {least:.1f} GiB free, this one {here:.1f})"
    return Diagnosis(
        f"Other processes hold memory on some of the GPUs{seen}: the KV pool would be sized by the fullest.",
        (
            "`nvidia-smi` shows who; end what is left of an earlier server",
            "where it is meant: SGL_DISABLE_TP_MEMORY_INBALANCE_CHECK=1 (0.5.6), later it only warns",
        ),
        severity=None if server_state.died is not None else Severity.WARNING,
    )


UNBALANCED = Rule(
    id="sglang-unbalanced",
    means="SGLang found GPUs with different free memory.",
    severity=Severity.ERROR,
    pattern=_UNBALANCED,
    explain=_unbalanced,
    sources=("sgl-project/sglang#1533", "sgl-project/sglang#4233"),
)


_HICACHE_HOST_MEMORY = compile_pattern(
    r"Not enough host memory available\. Requesting (?P<wanted>[\d.]+) GB but only have "
    r"(?P<free>[\d.]+) GB free"
)


def _hicache_host_memory(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    wanted, free = float(rule_match.match["wanted"]), float(rule_match.match["free"])
    size = max(int(free * 0.8 / server_state.tp), 1)
    return Diagnosis(
        f"HiCache wants {wanted:.0f} GB of host memory for this rank and {free:.0f} GB are free. The "
        f"size is per rank: "
        f"{server_state.tp} ranks take {wanted * server_state.tp:,.0f} GB. It does not raise the "
        f"longest request.",
        (
            f"--hicache-size {size} (GB a rank), or a lower --hicache-ratio",
            "or drop --enable-hierarchical-cache: it keeps old prefixes, nothing more",
        ),
    )


HICACHE_HOST_MEMORY = Rule(
    id="sglang-hicache-host-memory",
    means="HiCache wants more host memory than there is: the size is per rank.",
    severity=Severity.ERROR,
    pattern=_HICACHE_HOST_MEMORY,
    explain=_hicache_host_memory,
    sources=("sgl-project/sglang#34972", "sgl-project/sglang#8102"),
)


_LARGE_GIB = 4.0


_FEW_ROWS = 8


def _request_table(server_state: ServerState) -> Diagnosis | None:
    rows, context = server_state.figures.get("max_running_requests"), server_state.figures.get("context_len")
    if server_state.engine != "sglang" or rows is None or context is None or rows <= _FEW_ROWS:
        return None
    table, few = (count * (context + 4) * 4 / GIB for count in (rows, _FEW_ROWS))
    if table < _LARGE_GIB:
        return None
    line = server_state.figure_lines.get("max_running_requests", server_state.last.line)
    return Diagnosis(
        f"The request-to-token table takes {table:.1f} GiB of every GPU: {rows:,.0f} rows of "
        f"{context:,.0f} tokens. So many "
        "long requests never run at once.",
        (
            f"--max-running-requests {_FEW_ROWS}: the table takes {few:.2f} GiB; the {table - few:.1f} "
            f"GiB can go to "
            "--mem-fraction-static",
        ),
        Confidence.CERTAIN,
        evidence=Evidence(line, f"max_running_requests={rows:.0f}, context_len={context:.0f}"),
    )


REQUEST_TABLE = StateRule(
    id="sglang-request-table",
    means="A request-to-token table of many GiB that nobody asked for.",
    severity=Severity.WARNING,
    look=_request_table,
    sources=("sglang srt/mem_cache/memory_pool.py: ReqToTokenPool",),
)

RULES = (
    POOL_OOM,
    GRAPH_TABLES_OOM,
    CAPTURE_FAILED,
    NOT_ENOUGH_MEMORY,
    UNBALANCED,
    HICACHE_HOST_MEMORY,
    REQUEST_TABLE,
)
