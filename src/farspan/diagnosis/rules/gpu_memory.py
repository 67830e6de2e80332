"""Out of GPU memory, whichever engine says so."""

from __future__ import annotations

from collections.abc import Iterator

from farspan.engines.logs import out_of_memory as oom
from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.planned_server import planned
from farspan.engines.logs.records import StartPhase
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch
from farspan.engines.logs.server_state import ServerState
from farspan.engines.registry import all_engines, find_served

_OTHERS_GIB = 2.0


def _cuda_oom_starting(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    if rule_match.was_ready:
        return None
    read = oom.read(rule_match.match)
    others = read.others_gib
    if others is not None and others > _OTHERS_GIB:
        return Diagnosis(
            f"Out of GPU memory while starting ({read.words()}): other processes hold {others:.1f} GiB "
            f"of this GPU.",
            ("`nvidia-smi` shows who; end what is left of an earlier server",),
            Confidence.STRONG,
        )
    loading = not server_state.figures.get("weights_gib") or server_state.phase is StartPhase.WEIGHTS
    what = "while loading the weights: they do not fit one GPU" if loading else "while starting"
    plan = planned(server_state)
    fix = plan.steps() if plan is not None else ()
    return Diagnosis(
        f"Out of GPU memory {what} ({read.words()}).",
        (
            *fix,
            "a larger --tensor-parallel-size (SGLang: --tp-size) spreads the weights; an FP8 "
            "checkpoint halves them"
            if loading
            else "lower --gpu-memory-utilization (SGLang: --mem-fraction-static), or the batch the "
            "engine warms up with",
        ),
        Confidence.LIKELY,
    )


CUDA_OOM_STARTING = Rule(
    id="cuda-oom-starting",
    means="Out of GPU memory while starting, for no reason a more exact rule knows.",
    severity=Severity.ERROR,
    pattern=oom.PATTERN,
    explain=_cuda_oom_starting,
    sources=("vllm-project/vllm#15105", "sgl-project/sglang#4330"),
    general=True,
)


def _leave_more(server_state: ServerState) -> Iterator[str]:
    """What leaves more memory to activations, by the engine's own flags; those of every engine where it is unknown."""
    known = find_served(server_state.engine)
    for engine in (known,) if known is not None else all_engines():
        if engine.memory_share_flag:
            setting = engine.memory_share_flag.removeprefix("--").replace("-", "_")
            share = server_state.number(setting) or engine.memory_share
            lower = f"{engine.memory_share_flag} {share - 0.05:.2f}" if share and share > 0.2 else ""
            yield f"{lower or f'a lower {engine.memory_share_flag}'}: leaves more for activations"
        if engine.step_tokens_flag:
            yield f"{engine.step_tokens_flag} 4096: smaller activations"


def _cuda_oom_serving(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    if not rule_match.was_ready:
        return None
    words = oom.read(rule_match.match).words()
    return Diagnosis(
        f"Out of GPU memory while serving ({words}): activations or a workspace needed more than the "
        f"start-up profile "
        "showed.",
        (
            *_leave_more(server_state),
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True when much is reserved but unallocated",
        ),
        Confidence.STRONG,
    )


CUDA_OOM_SERVING = Rule(
    id="cuda-oom-serving",
    means="Out of GPU memory while answering.",
    severity=Severity.ERROR,
    pattern=oom.PATTERN,
    explain=_cuda_oom_serving,
    sources=("vllm-project/vllm#8879", "sgl-project/sglang#5372"),
)

RULES = (
    CUDA_OOM_STARTING,
    CUDA_OOM_SERVING,
)
