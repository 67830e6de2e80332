"""What a server was seen to do, and what that teaches the planner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from farspan.engines.registry import get_engine
from farspan.errors import InputError
from farspan.launch.validation import Tolerance, compare_start
from farspan.models.spec import KvDtype
from farspan.planner.build_document import build_engine
from farspan.planner.calibration import Calibration, kv_name
from farspan.planner.calibration_fit import fit_decode, fit_prefill_shares
from farspan.planner.ledger import Basis
from farspan.planner.prefill_fit import PrefillPoint, fit_prefill
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.planner.timing import choose_fit, eager_step_seconds
from farspan.sizes import GIB, format_tokens

# A log prints two digits of a GiB, and the allocator rounds: 0.05 GiB is no difference.
MEMORY = Tolerance(0.01, 0.05)
TIME_RELATIVE = 0.10
_SAME_STEP = 0.05  # steps of two lengths that differ less are both launches
TOLERANCE = "memory 1 %, or 0.05 GiB of one GPU where that is more; times 10 %"


@dataclass(frozen=True, slots=True)
class ObservedTime:
    """A request as it was measured.

    Args:
        prompt_tokens: Its prompt.
        output_tokens: Its answer.
        ttft_s: Seconds to the first token, the queue left out.
        itl_s: Seconds between tokens; None where the answer has fewer than two.
    """

    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    itl_s: float | None = None

    @property
    def context(self) -> int:
        """Prompt and answer together."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class ObservedServer:
    """What a server was seen to do.

    Args:
        figures: What it printed at start, by the log reader's names.
        times: Its cold requests, one alone at a time.
    """

    figures: Mapping[str, float]
    times: tuple[ObservedTime, ...] = ()


def calibrate(
    request: PlanRequest, plan: EnginePlan, observed: ObservedServer, *, date: str, model: str
) -> Calibration:
    """What a run teaches the planner, under the conditions of its plan.

    Args:
        request: What was planned, without calibrations: the rank that ran.
        plan: Its plan.
        observed: What was seen.
        date: The day, such as 2026-12-01.
        model: What ran, for people: "one rank of llama-4-scout at TP 8".

    Raises:
        InputError: The plan has no conditions or uses a calibration, or the times beat the hardware; with nothing
            measured at all.
    """
    conditions = plan.conditions
    if conditions is None or plan.calibration is not None:
        raise InputError(
            "only a plan without a calibration can be calibrated", "plan it with --no-calibration"
        )
    measured = "no request"
    if observed.times:
        lengths = sorted({time.prompt_tokens for time in observed.times})
        ends = dict.fromkeys((format_tokens(lengths[0]), format_tokens(lengths[-1])))
        measured = f"{len(observed.times)} prompts of {' to '.join(ends)} tokens"
    bare = Calibration(*conditions, date=date, model=model, runs=measured, ranks=request.tp)
    found = _with_memory(_with_times(bare, request, plan, observed), request, plan, observed)
    if not found.fitted:
        raise InputError("nothing was measured that could be fitted", "measure two --contexts at least")
    return found


def _with_times(
    bare: Calibration, request: PlanRequest, plan: EnginePlan, observed: ObservedServer
) -> Calibration:
    """Efficiencies, as far as there are points for them."""
    kv_dtype = KvDtype.FP8 if bare.kv == kv_name(KvDtype.FP8) else KvDtype.AUTO
    found = bare
    prompts = [PrefillPoint(time.prompt_tokens, time.ttft_s) for time in observed.times]
    if len({point.tokens for point in prompts}) > 1:
        # What every prompt waits for is no efficiency: it would make the weights look slow.
        constant = fit_prefill(prompts).constant_s
        computed = [PrefillPoint(tokens, seconds - constant) for tokens, seconds in prompts]
        linear, attention = fit_prefill_shares(request.model, request.gpu, request.tp, kv_dtype, computed)
        found = found._replace(linear=linear, attention=attention)
    steps = [PrefillPoint(time.context, time.itl_s) for time in observed.times if time.itl_s is not None]
    if not steps:
        return found
    if bare.eager:
        # What an eager step takes is launching, which goes with the layers; only longer ones wait for memory.
        shortest = min(point.seconds for point in steps)
        found = found._replace(launches=shortest / eager_step_seconds(request.model))
        steps = [point for point in steps if point.seconds > shortest * (1 + _SAME_STEP)]
        if not steps:
            return found
    known, _, _ = choose_fit(
        plan.engine, plan.version, request.gpu.name, kv_dtype, bare.backend, experts=bare.experts
    )
    share, step = fit_decode(request.model, request.gpu, request.tp, kv_dtype, steps, known)
    return found._replace(decode=share, step_s=step)


def _with_memory(
    found: Calibration, request: PlanRequest, plan: EnginePlan, observed: ObservedServer
) -> Calibration:
    """What was lost before the KV cache beside what was planned, and what graphs took of what was planned."""
    engine = get_engine(plan.engine)
    record = build_engine(request.context, plan)
    rows = {row.what: row for row in compare_start(engine, record, observed.figures, MEMORY)}
    by_name = {figure.logged: rows.get(figure.means) for figure in engine.start_figures}
    room, weights, graphs = (
        by_name.get(engine.kv_figure),
        by_name.get("weights_gib"),
        by_name.get("graphs_gib"),
    )
    if room is not None and room.difference_gib is not None:
        lost = room.difference_gib
        # Weights that differ are the model's, not this machine's, where the log tells them apart.
        if (
            weights is not None
            and weights.difference_gib is not None
            and weights.basis == Basis.MIRRORED.value
        ):
            lost += weights.difference_gib
        found = found._replace(outside_torch_bytes=round(lost * GIB))
    if graphs is not None and graphs.planned > 0 and graphs.got >= 0:
        found = found._replace(graphs_share=graphs.got / graphs.planned)
    return found
