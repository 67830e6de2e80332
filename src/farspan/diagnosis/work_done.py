"""What a log tells of work and time, in sentences: tokens, the cache's share, a start phase by phase."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from farspan.diagnosis.timeline import Entry
from farspan.engines.engine import StartSeconds
from farspan.engines.logs.rates import LOG_INTERVAL_S
from farspan.engines.logs.records import StartPhase
from farspan.engines.logs.server_state import ServerState
from farspan.engines.registry import find_served
from farspan.sizes import format_seconds

_SLOW_GIB_S = 0.5
_SLOW_FACTOR = 2.0
_LOCAL_GIB_S = 2.0
_WORTH_SAYING_S = 30.0


def work_terms(server_state: ServerState) -> Iterator[str]:
    """Tokens and rates, by what the log counts."""
    rates = server_state.rates
    busiest = rates.busiest
    if busiest is not None and (busiest.prompt_tps or busiest.generation_tps):
        yield (
            f"Line {busiest.where.line}: in the {LOG_INTERVAL_S:.0f} s before it vLLM counted "
            f"{busiest.prompt_tps * LOG_INTERVAL_S:,.0f} prompt tokens ({busiest.prompt_tps:,.1f} tokens/s x "
            f"{LOG_INTERVAL_S:.0f} s) and {busiest.generation_tps * LOG_INTERVAL_S:,.0f} generated tokens "
            f"({busiest.generation_tps:,.1f} tokens/s x {LOG_INTERVAL_S:.0f} s, of all requests together)."
        )
    longest = rates.longest
    if longest is not None and longest.tokens:
        yield (
            f"The longest prefill the log shows: {longest.tokens:,.0f} tokens in {longest.seconds:,.0f} s: "
            f"{longest.tps:,.0f} tokens/s."
        )
    if rates.generation_tps:
        yield f"Decode ran at up to {rates.generation_tps:,.1f} tokens/s, of all requests together."
    hit, line = rates.hit_rate
    if hit > 0:
        yield (
            f"Prefix cache hit rate {hit:.1%} (line {line}): that share of all prompt tokens so far was "
            "in the cache and was "
            "not computed. Times of such warm runs say nothing about a prompt that is new."
        )
    if rates.cached_tokens:
        share = rates.cached_tokens / (rates.cached_tokens + rates.new_tokens)
        yield (
            f"{rates.cached_tokens:,} of {rates.cached_tokens + rates.new_tokens:,} prompt tokens "
            f"({share:.1%}) came from the "
            "prefix cache: such warm runs say nothing about a prompt that is new."
        )


def start_terms(server_state: ServerState, timeline: Iterable[Entry]) -> Iterator[str]:
    """The start, phase by phase, beside what is usual; only where a phase took long enough to matter."""
    engine = find_served(server_state.engine)
    usual = engine.start_seconds if engine is not None else None
    for entry in timeline:
        seconds = entry.seconds
        if seconds is None or seconds < _WORTH_SAYING_S:
            continue
        if entry.phase is StartPhase.WEIGHTS:
            yield from _weights(server_state, seconds)
            continue
        expected = _usual(usual, entry.phase)
        if expected is not None and seconds > _SLOW_FACTOR * expected:
            yield (
                f"The start's phase {entry.phase.value} took {format_seconds(seconds)}; usual are about "
                f"{format_seconds(expected)}. A compile cache on a volume of its own (VLLM_CACHE_ROOT, "
                "TRITON_CACHE_DIR) "
                "saves most of it the next time."
                if entry.phase in (StartPhase.COMPILE, StartPhase.GRAPHS)
                else f"The start's phase {entry.phase.value} took {format_seconds(seconds)}; usual are about "
                f"{format_seconds(expected)}."
            )


def _weights(server_state: ServerState, seconds: float) -> Iterator[str]:
    gib = server_state.figures.get("weights_gib")
    if gib is None or gib / seconds >= _SLOW_GIB_S:
        return
    read = server_state.figures.get("weight_read_s")
    reading = f", {read / seconds:.0%} of it reading files" if read else ""
    whole = gib * server_state.tp
    ranks = (
        f" for the {whole:,.0f} GiB of all {server_state.tp} ranks" if server_state.args else " a GPU's share"
    )
    yield (
        f"Loading the weights took {format_seconds(seconds)}{reading}: {gib / seconds:.2f} GiB/s a GPU, "
        "which is a network "
        f"disk's pace. A local NVMe disk (assumed: {_LOCAL_GIB_S:.0f} GiB/s) would take about "
        f"{format_seconds(max(whole / _LOCAL_GIB_S, 1))}{ranks}; a second start reads from the page cache "
        "where main memory "
        "holds the files."
    )


def _usual(usual: StartSeconds | None, phase: StartPhase) -> float | None:
    if usual is None:
        return None
    return {
        StartPhase.ENGINE: usual.engine,
        StartPhase.COMPILE: usual.compile,
        StartPhase.PROFILE: usual.profile,
        StartPhase.GRAPHS: usual.graphs,
    }.get(phase)
