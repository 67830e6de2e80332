"""SGLang runs out of memory while it builds its pools: the request-to-token table grew with the context."""

from __future__ import annotations

from farspan.diagnosis import oom
from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.planned_server import planned
from farspan.diagnosis.rule import Diagnosis, Rule, RuleMatch
from farspan.diagnosis.server_state import ServerState
from farspan.sizes import GIB

_LEAST_ROWS = 2048
_FEW_ROWS = 8
_LARGE_GIB = 1.0


def is_pool(sighting: RuleMatch) -> bool:
    """Whether the traceback goes through SGLang's memory pools."""
    return sighting.raised_in(
        "memory_pool.py",
        "swa_memory_pool.py",
        "kv_cache_configurator.py",
        "_create_buffers",
        "init_memory_pool",
    ) and not sighting.raised_in("init_cuda_graph_state")


def _explain(sighting: RuleMatch, situation: ServerState) -> Diagnosis | None:
    if sighting.was_ready or not is_pool(sighting):
        return None
    words = oom.read(sighting.match).words()
    context, given = situation.context, situation.number("max_running_requests")
    rows = int(given) if given else _LEAST_ROWS
    table = 0.0 if context is None else rows * (context + 4) * 4 / GIB
    plan = planned(situation)
    steps = plan.steps() if plan is not None else ()
    if context is not None and table >= _LARGE_GIB:
        few = _FEW_ROWS * (context + 4) * 4 / GIB
        fraction = situation.number("mem_fraction_static")
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


RULE = Rule(
    id="sglang-pool-oom",
    severity=Severity.ERROR,
    needles=(oom.NEEDLE,),
    pattern=oom.PATTERN,
    explain=_explain,
    sources=(
        "observed on sglang 0.5.6.post2 and 0.5.16",
        "sglang srt/mem_cache/memory_pool.py: ReqToTokenPool",
    ),
)
