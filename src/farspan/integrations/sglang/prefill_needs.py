"""How many tokens SGLang will ask for before it admits a request or a chunk, as its own checks count them."""

from __future__ import annotations

from importlib import import_module
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

    def admitted(self, adder: Any) -> Needs:
        """Return what is counted for requests that run or were admitted before."""

    def window(self, adder: Any, extend: int, more: int, /) -> int:
        """Return what is asked of the window pool for a prompt's rest and an answer of so many tokens."""


class AdderCounts:
    """The counts of SGLang 0.5.16: its `PrefillAdder` has them."""

    def prefix(self, req: Any) -> int:
        """See `AdmissionCounts`."""
        return len(req.prefix_indices)

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

    def admitted(self, adder: Any) -> Needs:
        """See `AdmissionCounts`."""
        budget = adder.memory_budget
        return Needs(int(budget.total_offset), int(budget.swa_offset))

    def window(self, adder: Any, extend: int, more: int) -> int:
        """See `AdmissionCounts`."""
        return int(adder.memory_budget.swa_tokens(extend, more, chunk_limit=adder.rem_chunk_tokens))


def needs_of_request(counts: AdmissionCounts, adder: Any, req: Any) -> Needs:
    """Return what `add_one_req` of SGLang's `PrefillAdder` asks for, beside what it has admitted before."""
    extend, more = _extend(counts, req), _new_tokens(req, len(req.output_ids))
    tokens = extend + more + 2 * adder.page_size
    if req.sampling_params.ignore_eos and getattr(adder.tree_cache, "disable", True):
        tokens += _left_to_generate(adder, req) + 1
    window = counts.window(adder, extend, more) if adder.is_hybrid_swa else 0
    return _beside(counts.admitted(adder), tokens, window)


def needs_of_chunk(counts: AdmissionCounts, adder: Any, req: Any) -> Needs:
    """Return what a prompt that is half computed can still come to ask for, and its next chunk of the window pool."""
    rest = _extend(counts, req)
    chunk = adder.rem_chunk_tokens if adder.rem_chunk_tokens is not None else rest
    window = min(chunk, rest) + 2 * adder.page_size
    return _beside(counts.admitted(adder), rest + _new_tokens(req, 0) + 2 * adder.page_size, window)


def _beside(admitted: Needs, full: int, window: int) -> Needs:
    return Needs(admitted.full + full + 1, admitted.window + window + 2)


def _extend(counts: AdmissionCounts, req: Any) -> int:
    return len(req.full_untruncated_fill_ids) - counts.prefix(req)


def _new_tokens(req: Any, generated: int) -> int:
    most: int = import_module(_POLICY).CLIP_MAX_NEW_TOKENS
    return min(max(int(req.sampling_params.max_new_tokens) - generated, 0), most)


def _left_to_generate(adder: Any, req: Any) -> int:
    """Return what SGLang keeps free for requests that do not stop early, when nothing is cached."""
    running = adder.running_batch.reqs if adder.running_batch is not None else []
    others = [*running, *adder.can_run_list]
    left = [one.sampling_params.max_new_tokens - len(one.output_ids) for one in (*others, req)]
    reserve: int = import_module(_POLICY).IGNORE_EOS_RESERVE_TOKENS
    return sum(max(0, int(one)) for one in left) + reserve * len(left)
