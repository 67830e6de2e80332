"""How many tokens SGLang will ask for: before it admits a request or a chunk, and for those that it has admitted."""

from __future__ import annotations

from importlib import import_module
from math import ceil
from typing import Any, NamedTuple, Protocol

_POLICY = "sglang.srt.managers.schedule_policy"


class Needs(NamedTuple):
    """Tokens to be available or evictable: of full attention, or of the only pool, and of the window pool."""

    full: int
    window: int


class AdmissionCounts(Protocol):
    """Where one version of SGLang keeps what its `PrefillAdder` counts."""

    def prefix(self, req: Any) -> int:
        """Return the tokens of a request that are computed already."""

    def own_window(self, req: Any) -> int:
        """Return the window tokens that a request that decodes has beside those of the prefix cache."""

    def admitted(self, adder: Any) -> Needs:
        """Return what is counted for requests that run or were admitted before."""

    def window(self, adder: Any, extend: int, more: int, /) -> int:
        """Return what is asked of the window pool for a prompt's rest and an answer of so many tokens."""


class AdderCounts:
    """The counts of SGLang 0.5.16: its `PrefillAdder` has them."""

    def prefix(self, req: Any) -> int:
        """See `AdmissionCounts`."""
        return len(req.prefix_indices)

    def own_window(self, req: Any) -> int:
        """See `AdmissionCounts`."""
        gone = req.cache_protected_len if req.kv is None else req.kv.swa_evicted_seqlen
        return int(req.kv_committed_len - max(gone, req.cache_protected_len))

    def admitted(self, adder: Any) -> Needs:
        """See `AdmissionCounts`."""
        return Needs(int(adder.rem_total_token_offset), int(adder.rem_swa_token_offset))

    def window(self, adder: Any, extend: int, _more: int) -> int:
        """See `AdmissionCounts`."""
        return int(adder._swa_budget_for_req(extend))


class BudgetCounts:
    """The counts of SGLang 0.5.23: its allocator's `PrefillBudget` has them."""

    def prefix(self, req: Any) -> int:
        """See `AdmissionCounts`."""
        return int(req.prefix_len)

    def own_window(self, req: Any) -> int:
        """See `AdmissionCounts`."""
        gone = max(req.kv.component_evicted_seqlens.values(), default=0)
        return int(req.kv.kv_committed_len - max(gone, req.kv.cache_protected_len))

    def admitted(self, adder: Any) -> Needs:
        """See `AdmissionCounts`."""
        budget = adder.memory_budget
        return Needs(int(budget.total_offset), int(budget.swa_offset))

    def window(self, adder: Any, extend: int, more: int) -> int:
        """See `AdmissionCounts`."""
        return int(adder.memory_budget.swa_tokens(extend, more, chunk_limit=adder.rem_chunk_tokens))


def needs_of_admitted(counts: AdmissionCounts, scheduler: Any, running: list[Any]) -> Needs:
    """Return what requests that were admitted may still come to ask for.

    That is the part of their answers that SGLang counts on when it admits others, but all of any one of them: whichever
    is left when the others are retracted can be answered to its end. And the rest of a prompt that is half computed.
    """
    most, span, page = _most_new_tokens(), _window_span(scheduler), scheduler.page_size
    full, window, longest, widest = 0, 0, 0, 0
    for req in running:
        left = min(max(req.sampling_params.max_new_tokens - len(req.output_ids), 0), most)
        pages = whole_pages(left, page)
        full, longest = full + pages, max(longest, pages)
        if span:
            left = whole_pages(min(left, max(0, span - counts.own_window(req))), page)
            window, widest = window + left, max(widest, left)
    part = scheduler.new_token_ratio_tracker.current
    full, window = max(ceil(part * full), longest), max(ceil(part * window), widest)
    if (req := scheduler.chunked_req) is not None:
        rest, more = _extend(counts, req), _new_tokens(req, 0)
        full += rest + more + 2 * scheduler.page_size
        if span:
            window += min(scheduler.chunked_prefill_size, rest) + min(span, more) + 2 * scheduler.page_size
    return Needs(full, window)


def needs_of_request(counts: AdmissionCounts, adder: Any, req: Any) -> Needs:
    """Return what `add_one_req` of SGLang's `PrefillAdder` asks for, beside what it has admitted before."""
    extend, more = _extend(counts, req), _new_tokens(req, len(req.output_ids))
    tokens = extend + more + 2 * adder.page_size
    if req.sampling_params.ignore_eos and getattr(adder.tree_cache, "disable", True):
        tokens += _left_to_generate(adder, req) + 1
    window = counts.window(adder, whole_pages(extend, adder.page_size), more) if adder.is_hybrid_swa else 0
    return _beside(counts.admitted(adder), tokens, window)


def needs_of_chunk(counts: AdmissionCounts, adder: Any, req: Any) -> Needs:
    """Return what a prompt that is half computed can still come to ask for, and its next chunk of the window pool."""
    rest = _extend(counts, req)
    chunk = adder.rem_chunk_tokens if adder.rem_chunk_tokens is not None else rest
    window = min(chunk, rest) + 2 * adder.page_size
    return _beside(counts.admitted(adder), rest + _new_tokens(req, 0) + 2 * adder.page_size, window)


def whole_pages(tokens: int, page: int) -> int:
    """Return the slots of the pages that so many tokens take."""
    return -(-tokens // page) * page


def tokens_of_two_chunks(counts: AdmissionCounts, adder: Any, req: Any) -> int:
    """Return what a prompt that goes on takes in this pass and the next."""
    chunk = adder.rem_chunk_tokens if adder.rem_chunk_tokens is not None else 0
    return min(_extend(counts, req), 2 * int(chunk)) + 2 * int(adder.page_size)


def _beside(admitted: Needs, full: int, window: int) -> Needs:
    return Needs(admitted.full + full + 1, admitted.window + window + 2)


def _extend(counts: AdmissionCounts, req: Any) -> int:
    return len(req.full_untruncated_fill_ids) - counts.prefix(req)


def _new_tokens(req: Any, generated: int) -> int:
    return min(max(int(req.sampling_params.max_new_tokens) - generated, 0), _most_new_tokens())


def _most_new_tokens() -> int:
    most: int = import_module(_POLICY).CLIP_MAX_NEW_TOKENS
    return most


def _window_span(scheduler: Any) -> int:
    """Return the most window tokens of its own that a request that decodes holds; 0 without such layers."""
    if not scheduler.is_hybrid_swa:
        return 0
    between = import_module("sglang.srt.environ").envs.SGLANG_SWA_EVICTION_INTERVAL.get()
    return int(scheduler.tree_cache.sliding_window_size + max(1, between) + 2 * scheduler.page_size)


def _left_to_generate(adder: Any, req: Any) -> int:
    """Return what SGLang keeps free for requests that do not stop early, when nothing is cached."""
    running = adder.running_batch.reqs if adder.running_batch is not None else []
    others = [*running, *adder.can_run_list]
    left = [one.sampling_params.max_new_tokens - len(one.output_ids) for one in (*others, req)]
    reserve: int = import_module(_POLICY).IGNORE_EOS_RESERVE_TOKENS
    return sum(max(0, int(one)) for one in left) + reserve * len(left)
