"""SGLang while it serves: requests refused, retracted or stuck, wrong answers, health and watchdog."""

from __future__ import annotations

from farspan.engines.logs.findings import Confidence, Evidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.planned_server import planned
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, StateRule
from farspan.engines.logs.server_state import ServerState
from farspan.engines.sglang.log_version import is_llama4
from farspan.sizes import GIB

_LONG_CHUNK = 1024
_SMALL_CHUNK = 4096
_INPUT_TOO_LONG = compile_pattern(
    r"Input length \((?P<length>\d+) tokens\) exceeds the maximum allowed length \((?P<most>\d+) tokens\)"
    r"|The input \((?P<input>\d+) tokens\) is longer than the model's context length "
    r"\((?P<context>\d+) tokens\)"
    r"|Requested token count exceeds the model's maximum context length of (?P<limit>\d+) tokens.{0,40}?"
    r"requested a total of (?P<total>\d+)(?: tokens: (?P<prompt>\d+) tokens from the input.{0,40}? "
    r"and (?P<output>\d+))?"
    r"|Request length is longer than the KV cache pool size or the max context length"
)


def _input_too_long(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    match = rule_match.match
    if match["length"] is None and match["input"] is None and match["limit"] is None:
        return Diagnosis(
            "A prompt was longer than the pool or the context and was cut without telling the client "
            "(--allow-auto-truncate): the answer is about a part of it.",
            ("drop --allow-auto-truncate: such a prompt is answered with 400 then",),
        )
    length = int(match["length"] or match["input"] or match["total"])
    most = int(match["most"] or match["context"] or match["limit"])
    if match["output"] is not None and int(match["prompt"]) < most:
        prompt, output = int(match["prompt"]), int(match["output"])
        return Diagnosis(
            f"Refused with 400: the prompt ({prompt:,} tokens) fits the {most:,} the server takes, "
            f"but the client also reserves "
            f"{output:,} tokens for the answer, and both together do not.",
            (
                f"a lower max_tokens in the client: {most - prompt:,} are left for this prompt",
                f"or a --context-length of {length}, when the model allows it",
            ),
        )
    context, pool = server_state.context, server_state.figures.get("max_total_num_tokens")
    by_pool = match["length"] is not None and pool is not None and (context is None or pool < context)
    limit = "the KV pool" if by_pool else "--context-length"
    fix: list[str] = []
    if by_pool:
        plan = planned(server_state)
        if plan is not None:
            fix.extend(plan.steps())
        fix.append(
            "a larger pool: --kv-cache-dtype fp8_e4m3, a higher --mem-fraction-static, "
            "--swa-full-tokens-ratio 0.05 for models "
            "with window layers (from 0.5.16)"
        )
    else:
        answer = 1000
        fix.append(
            f"shorten the prompt, or --context-length {length + answer} (with {answer} for the "
            f"answer), when the model allows it"
        )
    return Diagnosis(
        f"A prompt of {length:,} tokens was refused: at most {most:,} are taken, because of {limit}.",
        tuple(fix),
    )


INPUT_TOO_LONG = Rule(
    id="sglang-input-too-long",
    means="SGLang refused a prompt longer than its pool or context.",
    severity=Severity.WARNING,
    pattern=_INPUT_TOO_LONG,
    explain=_input_too_long,
    sources=("sgl-project/sglang#4048", "sglang srt/managers/utils.py: validate_input_length"),
)


def _retracted(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    pool = server_state.figures.get("max_total_num_tokens")
    holds = f" (it holds {pool:,.0f} tokens)" if pool else ""
    return Diagnosis(
        f"The KV pool was full{holds} and running requests were taken out, {rule_match.count} times: "
        f"their prompts are "
        "computed again later.",
        (
            "--max-running-requests N, with N prompts of your length fitting the pool",
            "--schedule-conservativeness 1.3: admits fewer at once",
        ),
    )


RETRACTED = Rule(
    id="sglang-retracted",
    means="SGLang threw running requests out of a full pool.",
    severity=Severity.WARNING,
    pattern=compile_pattern(r"KV cache pool is full\. Retract requests"),
    explain=_retracted,
    sources=("sgl-project/sglang#26248",),
)


def _queue_stuck(server_state: ServerState) -> Diagnosis | None:
    full, window = server_state.figures.get("full_layer_tokens"), server_state.figures.get("swa_layer_tokens")
    context = server_state.context
    if server_state.engine != "sglang" or not full or not window or context is None:
        return None
    if window >= min(context, full) or not server_state.number("hybrid_kvcache_ratio"):
        return None
    stuck = server_state.rates.queue_stuck
    cause = (
        f"Up to 0.5.10 a prompt is admitted only if it fits the smaller pool whole: one longer than "
        f"the window pool "
        f"({window:,.0f} tokens) queues for ever, without an error, though the full pool holds {full:,.0f}."
    )
    line = server_state.figure_lines.get("swa_layer_tokens", server_state.last.line)
    return Diagnosis(
        cause,
        (
            "--hybrid-kvcache-ratio 1: the window pool holds as many tokens as the full one",
            "or SGLang 0.5.16 and later, where admission is right: --swa-full-tokens-ratio 0.05",
        ),
        Confidence.STRONG,
        severity=Severity.ERROR if stuck else None,
        evidence=Evidence(line, f"full_layer_tokens={full:.0f}, swa_layer_tokens={window:.0f}"),
    )


QUEUE_STUCK = StateRule(
    id="sglang-queue-stuck",
    means="SGLang to 0.5.10: a prompt larger than the window pool queues for ever.",
    severity=Severity.WARNING,
    look=_queue_stuck,
    sources=("sglang 0.5.6.post2 srt/managers/schedule_policy.py",),
)


def _watchdog(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    stated = rule_match.match["limit"]
    limit = float(stated.rstrip(".")) if stated else (server_state.number("watchdog_timeout") or 300.0)
    ranks = (server_state.number("pp_size") or 1) > 1 or (server_state.number("nnodes") or 1) > 1
    small = server_state.rates.most_new_tokens
    if not rule_match.was_ready and not server_state.rates.prefills and small < _LONG_CHUNK:
        stages = " With pipeline parallelism one stage waits for another that waits for it." if ranks else ""
        work = f" of {small:,} tokens" if small else ""
        return Diagnosis(
            f"The warm-up request{work} did not finish within --watchdog-timeout ({limit:.0f} s), "
            f"and SGLang ended itself. Work so small "
            f"takes no such time: a rank hangs.{stages}",
            (
                "find the rank: `py-spy dump --pid PID` of each scheduler process (the log has such "
                "dumps beside the line, with the "
                "rank's name), on every node; the one that is not in a receive or a collective is it",
                "NCCL_DEBUG=INFO, and NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME of the right "
                "network, where several nodes meet",
                *(
                    (
                        "tensor parallelism alone (no --pp-size), or a newer version: pipeline "
                        "scheduling was mended often",
                    )
                    if ranks
                    else ()
                ),
                "a longer timeout cures nothing here; --skip-server-warmup shows whether real "
                "requests hang, too",
            ),
            Confidence.STRONG,
        )
    chunk = server_state.number("chunked_prefill_size")
    fix = [f"--watchdog-timeout {max(int(limit) * 12, 3600)}"]
    if chunk is None or chunk > _SMALL_CHUNK:
        fix.append(f"--chunked-prefill-size {_SMALL_CHUNK}: each chunk is shorter")
    fix.append(
        "if all chunks were quick until then, look for the rank that hangs: NCCL_DEBUG=INFO, py-spy dump"
    )
    return Diagnosis(
        f"One batch took longer than --watchdog-timeout ({limit:.0f} s) and SGLang ended itself. "
        f"With a very long context the chunks at "
        "its end may take that long; else a rank hangs.",
        tuple(fix),
        Confidence.STRONG,
    )


WATCHDOG = Rule(
    id="sglang-watchdog",
    means="SGLang's watchdog ended the server: one batch took longer than it allows.",
    severity=Severity.ERROR,
    pattern=compile_pattern(r"(?i)(?:scheduler |^)watchdog timeout(?:.{0,40}?timeout=(?P<limit>[\d.]+))?"),
    explain=_watchdog,
    sources=("sgl-project/sglang#3836", "sgl-project/sglang#8232"),
)


def _health_503(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    times = server_state.access_log.health_503 or rule_match.count
    return Diagnosis(
        f"/health answered 503 {times} times: it makes the server generate a token and gives up after "
        f"20 s, which a chunk of "
        "a long prompt, or the first request's kernel compilation, easily takes. A liveness probe on "
        "/health kills a "
        "server that is only busy.",
        (
            "probe /ping instead, or set SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=0",
            "if the server never answers again, it does hang: look for the first error",
        ),
        Confidence.STRONG,
    )


HEALTH_503 = Rule(
    id="sglang-health-503",
    means="SGLang's /health answers 503 while it works on a long prompt: a probe would kill a busy server.",
    severity=Severity.WARNING,
    pattern=compile_pattern(r"Health check failed\. Server couldn't get a response from detokenizer"),
    explain=_health_503,
    sources=("sgl-project/sglang#10856", "sgl-project/sglang#26482", "observed on sglang 0.5.16"),
)


_LONG = 1_000_000


def _prefix_tree(server_state: ServerState) -> Diagnosis | None:
    context, chunk = server_state.context, server_state.number("chunked_prefill_size")
    if server_state.engine != "sglang" or server_state.version_like not in ("0.5.6", "0.5.7"):
        return None
    if (
        context is None
        or context < _LONG
        or not chunk
        or chunk < 1
        or server_state.is_on("disable_radix_cache")
    ):
        return None
    chunks = -(-context // int(chunk))
    copies = 8 * chunk * chunks * (chunks + 1) / 2 / GIB
    if copies < 1:
        return None
    return Diagnosis(
        f"This version's prefix tree keeps a copy of all indices for each of the {chunks:,} chunks of a "
        f"{context:,}-token prompt: {copies:.1f} GiB on the GPU by its end, and CPU time that grows "
        f"with its cube (101 s "
        "at 2M tokens, hours at 10M).",
        (
            "--chunked-prefill-size 131072 (2.2 s at 2M), or --disable-radix-cache",
            "or SGLang 0.5.8 and later for the memory",
        ),
        Confidence.STRONG,
        evidence=Evidence(
            server_state.args_line, f"server_args: context_length={context}, chunked_prefill_size={chunk:.0f}"
        ),
    )


PREFIX_TREE = StateRule(
    id="sglang-prefix-tree",
    means="SGLang to 0.5.7: the prefix tree's work grows with the cube of a chunked prompt.",
    severity=Severity.WARNING,
    look=_prefix_tree,
    sources=("sglang 0.5.6.post2 srt/mem_cache/radix_cache.py: cache_unfinished_req, run on a CPU",),
)


def _page_size_llama4(server_state: ServerState) -> Diagnosis | None:
    page = server_state.number("page_size")
    if server_state.engine != "sglang" or page is None or page <= 1 or not is_llama4(server_state.model):
        return None
    if server_state.version_like != "0.5.6" or server_state.text("attention_backend") not in ("", "fa3"):
        return None
    return Diagnosis(
        f"--page-size {page:.0f} with Llama 4 on fa3 gives wrong answers in 0.5.6: a table of tokens "
        f"is passed where one of "
        "pages is read.",
        ("--page-size 1",),
        Confidence.STRONG,
        evidence=Evidence(server_state.args_line, f"server_args: page_size={page:.0f}"),
    )


PAGE_SIZE_LLAMA4 = StateRule(
    id="sglang-page-size-llama4",
    means="SGLang 0.5.6: page sizes above 1 give wrong answers with Llama 4 on fa3.",
    severity=Severity.ERROR,
    look=_page_size_llama4,
    sources=("sglang 0.5.6.post2 srt/layers/attention/flashattention_backend.py",),
)


def _hicache_decode_backend(server_state: ServerState) -> Diagnosis | None:
    if (
        server_state.engine != "sglang"
        or not server_state.is_on("enable_hierarchical_cache")
        or not is_llama4(server_state.model)
    ):
        return None
    if server_state.version_like != "0.5.6" or server_state.text("hicache_io_backend") not in ("", "kernel"):
        return None
    if server_state.text("decode_attention_backend") not in ("", "flashinfer"):
        return None
    return Diagnosis(
        "With --enable-hierarchical-cache SGLang 0.5.6 decodes on flashinfer, which attends to every "
        "token in every layer. "
        "Llama 4's chunked layers must not: past 8,192 tokens the answers are wrong, without a word in "
        "the log.",
        ("--decode-attention-backend fa3", "or drop --enable-hierarchical-cache"),
        Confidence.STRONG,
        evidence=Evidence(server_state.args_line, "server_args: enable_hierarchical_cache=True"),
    )


HICACHE_DECODE_BACKEND = StateRule(
    id="sglang-hicache-decode-backend",
    means="SGLang 0.5.6: HiCache moves Llama 4's decode to a backend that ignores chunked attention.",
    severity=Severity.ERROR,
    look=_hicache_decode_backend,
    sources=("sglang 0.5.6.post2 srt/server_args.py",),
)


RULES = (
    INPUT_TOO_LONG,
    RETRACTED,
    QUEUE_STUCK,
    WATCHDOG,
    HEALTH_503,
    PREFIX_TREE,
    PAGE_SIZE_LLAMA4,
    HICACHE_DECODE_BACKEND,
)
