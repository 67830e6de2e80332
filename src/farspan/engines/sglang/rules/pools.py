"""SGLang's accounting of its pools: pages that nobody owns, and steps planned without a page."""

from __future__ import annotations

from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch
from farspan.engines.logs.server_state import ServerState

_LEAK = compile_pattern(
    r"(?:token_to_kv_pool(?:_allocator)?|req_to_token_pool|KV cache pool|[Mm]emory pool|pool) "
    r"(?:memory )?leak detected"
)


def _leak(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    fatal = server_state.died is not None and server_state.died_itself
    return Diagnosis(
        "SGLang counted its pools while it was idle, and pages were neither free nor in the prefix "
        "tree: a fault of that version's "
        "accounting, not of the settings. Nothing is wrong with answers given so far."
        + (" The strict form of the check ends the server." if fatal else ""),
        (
            "upgrade: leaks of hybrid, speculative and disaggregated caches were mended in nearly "
            "every release",
            "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE=0 makes it a warning until then (0.5.3 and "
            "later); the pool shrinks by what leaks",
            "--disable-radix-cache avoids most of the paths that leak; report the line with the "
            "server's arguments",
        ),
        Confidence.STRONG,
        severity=None if fatal else Severity.WARNING,
    )


LEAK = Rule(
    id="sglang-pool-leak",
    means="SGLang's own check of its pools found pages that nobody owns, and ended the server.",
    severity=Severity.ERROR,
    pattern=_LEAK,
    explain=_leak,
    sources=(
        "sglang 0.4.0 srt/managers/scheduler.py",
        "sglang 0.5.10 srt/managers/scheduler_runtime_checker_mixin.py",
    ),
)

_DECODE_OOM = compile_pattern(
    r"(?P<phase>Decode|Prefill) out of memory\. (?:Try to lower your batch size|)|alloc_req_slots "
    r"runs out of memory"
)


def _decode_oom(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:  # noqa: ARG001
    page = server_state.number("page_size") or 1
    running = server_state.number("max_running_requests")
    cause = (
        "The KV pool had no page left for a step that the scheduler had already planned, and SGLang "
        "ended: its accounting let more requests "
        "run than fit."
    )
    fix = []
    if page > 1:
        cause += (
            f" With --page-size {page:.0f} every running request may begin a new page at once, and "
            f"versions that plan by tokens count "
            "too little."
        )
        fix.append("--page-size 1, where the attention backend allows it")
    fix.append("upgrade: planning and retraction under a full pool were mended in later versions")
    fewer = (
        f"--max-running-requests {max(int(running) // 2, 1)}"
        if running and running > 1
        else "a --max-running-requests of what fits"
    )
    fix.append(f"{fewer}, or --schedule-conservativeness 1.3: fewer requests run at once")
    return Diagnosis(cause, tuple(fix), Confidence.STRONG)


DECODE_OOM = Rule(
    id="sglang-decode-out-of-memory",
    means="SGLang's pool had no page for a step it had planned.",
    severity=Severity.ERROR,
    pattern=_DECODE_OOM,
    explain=_decode_oom,
    sources=(
        "sglang 0.4.6 srt/managers/schedule_batch.py: alloc_paged_token_slots_decode",
        "sgl-project/sglang#4566",
    ),
)

RULES = (LEAK, DECODE_OOM)
