"""Times of several requests sent at once: when the last one has its first token, and what a token takes then.

A model of a queue, checked against no server: it says "assumed" wherever it is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from farspan.planner.kvcost import asked_kv_dtype
from farspan.planner.roofline import active_weight_bytes, decode_rates
from farspan.planner.timing import choose_fit, has_experts
from farspan.sizes import format_seconds

if TYPE_CHECKING:
    from farspan.planner.request import EnginePlan, PlanRequest

BASIS = (
    "assumed: prompts are computed one after the other and tokens between them are free; "
    "a batch reads its weights once and each request's cache"
)


class LoadEstimate(NamedTuple):
    """What `concurrency` requests sent at the same moment see, in seconds.

    Args:
        concurrency: Requests sent.
        running: How many of them run at once; the others wait for room.
        ttft_first_s: The first one's first token.
        ttft_mean_s: The mean over all.
        ttft_last_s: The last one's first token.
        itl_s: Time between tokens while `running` requests decode and no prompt is computed.
    """

    concurrency: int
    running: int
    ttft_first_s: float
    ttft_mean_s: float
    ttft_last_s: float
    itl_s: float


class MissedTimes(NamedTuple):
    """By what a plan misses the times that are to be kept.

    Args:
        words: The same in words; empty when it keeps to them.
        ttft_s: The last request's time to first token, where it is what is missed.
        itl_s: Time between tokens of the full batch, where it is what is missed.
    """

    words: str = ""
    ttft_s: float | None = None
    itl_s: float | None = None


class TimeGoals(NamedTuple):
    """Times to stay within when all requests are sent at once; None for no goal.

    Args:
        ttft_s: The last request's time to first token.
        itl_s: Time between tokens of the full batch.
    """

    ttft_s: float | None = None
    itl_s: float | None = None

    def met_by(self, request: PlanRequest, plan: EnginePlan) -> bool:
        """Whether a plan that fits also keeps to the times."""
        return not self.find_missed(request, plan).words

    def find_missed(self, request: PlanRequest, plan: EnginePlan) -> MissedTimes:
        """Say by what a plan that fits misses the times."""
        if self.ttft_s is None and self.itl_s is None:
            return MissedTimes()
        load = estimate_load(request, plan)
        if load is None:
            return MissedTimes("its times are not known")
        words, ttft_s, itl_s = [], None, None
        if self.ttft_s is not None and load.ttft_last_s > self.ttft_s:
            ttft_s = load.ttft_last_s
            last = "the last" if request.concurrency > 1 else "one alone"
            words.append(f"{last} has its first token in {format_seconds(ttft_s)}")
        if self.itl_s is not None and load.itl_s > self.itl_s:
            itl_s = load.itl_s
            words.append(f"a token takes {format_seconds(itl_s)}")
        return MissedTimes(", ".join(words), ttft_s, itl_s)


NO_GOALS = TimeGoals()
NOT_MISSED = MissedTimes()


def estimate_load(request: PlanRequest, plan: EnginePlan) -> LoadEstimate | None:
    """Estimate `request.concurrency` requests of the full context sent at once; None where not one fits.

    Of n that run at once the k-th has its first token after k prompts, TTFT = k T with T the time of one alone; those
    beyond n wait until a batch of n has ended, n T + (output - 1) ITL(n). ITL(n) is that of one request, plus what n
    requests read more: their caches, and the weights that n tokens wake (all of a dense model's, more experts of a
    mixture's: `roofline.active_weight_bytes`), over bandwidth and the fitted share of it.
    """
    time, running = plan.time, min(request.concurrency, int(plan.max_concurrency))
    if time is None or running < 1:
        return None
    width = asked_kv_dtype(request).value_bytes(request.model.dtype_bytes)
    rates = decode_rates(request.model, request.tp, width)
    more = (running - 1) * rates.kv(request.context)
    more += active_weight_bytes(request.model, request.tp, running) - rates.weights
    fit, _, _ = choose_fit(
        plan.engine,
        plan.version,
        request.gpu.name,
        asked_kv_dtype(request),
        "",
        experts=has_experts(request.model),
    )
    if plan.calibration is not None:
        fit = plan.calibration.apply_to(fit)
    itl = time.itl_expected_s + more / request.gpu.bandwidth / fit.decode
    alone = time.ttft_expected_s
    batch_s = running * alone + max(0, request.output_tokens - 1) * itl
    full, rest = divmod(request.concurrency, running)
    # The sum over all requests of (batches before it) x batch + (place in its batch) x alone.
    waited = (running * full * (full - 1) / 2 + rest * full) * batch_s
    computed = (full * running * (running + 1) / 2 + rest * (rest + 1) / 2) * alone
    batches_before, place = divmod(request.concurrency - 1, running)
    return LoadEstimate(
        request.concurrency,
        running,
        ttft_first_s=alone,
        ttft_mean_s=(waited + computed) / request.concurrency,
        ttft_last_s=batches_before * batch_s + (place + 1) * alone,
        itl_s=itl,
    )
