"""Attention of one step over the keys a sequence already has, in memory linear in both.

Keys and values come as runs, contiguous pieces in order of position. Each run is one call of a fused kernel, which also
returns the log of its softmax's sum; partial results are joined by these as they come, so that neither an N x N matrix
nor a gathered copy of the cache ever exists. Which kernel that is, is the affair of `fused_attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from farspan.builtin.fused_attention import (
    Attended,
    fold,
    fused_attention,
    join_attended,
    piece_sizes,
    unfold,
)
from farspan.kv.interface import PageRun, SequenceKV

# Joins two attended parts over disjoint keys; the first may be overwritten.
Join = Callable[[Attended, Attended], Attended]


def attend(
    query: torch.Tensor,
    sequence: SequenceKV,
    layer: int,
    start: int,
    chunk: int | None,
    scale: float,
    join: Join = join_attended,
) -> torch.Tensor:
    """Return attention of positions [start, start + tokens) over those before them and themselves.

    Args:
        query: [tokens, num_heads, head_dim], of one sequence; its keys and values are already written.
        sequence: Where keys and values are.
        layer: Which layer's.
        start: Position of the first query.
        chunk: None for full attention; otherwise a query sees only positions of its own chunk.
        scale: What scores are multiplied by.
        join: What joins parts over disjoint keys.

    Returns:
        [tokens, num_heads, head_dim], of the query's dtype.
    """
    stop = start + int(query.shape[0])
    if chunk is None:
        return _attend_span(query, sequence, layer, 0, start, stop, scale, join)
    pieces = []
    low = start
    while low < stop:
        first = low // chunk * chunk
        high = min(stop, first + chunk)
        part = query[low - start : high - start]
        pieces.append(_attend_span(part, sequence, layer, first, low, high, scale, join))
        low = high
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _attend_span(
    query: torch.Tensor,
    sequence: SequenceKV,
    layer: int,
    first: int,
    start: int,
    stop: int,
    scale: float,
    join: Join,
) -> torch.Tensor:
    """Attend from [start, stop) to [first, start) without a mask and to [start, stop) causally."""
    # [tokens, heads, dim] -> [1, heads, tokens, dim], a view
    q = query.transpose(0, 1).unsqueeze(0)
    own = list(sequence.runs(layer, start, stop))
    if len(own) > 1:
        own = [PageRun(torch.cat([run.key for run in own]), torch.cat([run.value for run in own]))]
    part = _call(q, own[0], True, scale)
    before = _attend_unmasked(q, sequence.runs(layer, first, start), scale, join)
    output, _ = part if before is None else join(before, part)
    return output[0].transpose(0, 1).to(query.dtype)


def attend_runs(query: torch.Tensor, runs: Iterable[PageRun], scale: float) -> torch.Tensor:
    """Return attention of a query [tokens, num_heads, head_dim] over all positions of one or more runs, unmasked."""
    part = _attend_unmasked(query.transpose(0, 1).unsqueeze(0), runs, scale, join_attended)
    assert part is not None, "there is nothing to attend to"
    return part[0][0].transpose(0, 1).to(query.dtype)


def _attend_unmasked(q: torch.Tensor, runs: Iterable[PageRun], scale: float, join: Join) -> Attended | None:
    """Return (output [1, heads, tokens, dim], log-sum-exp [1, heads, tokens]) over all runs; None if there is none."""
    joined = None
    folded = q
    kv_heads = 0
    for piece in _pieces(runs, q):
        if not kv_heads:
            kv_heads = piece.key.shape[1]
            folded = fold(q, kv_heads)
        part = _call(folded, piece, False, scale)
        joined = part if joined is None else join(joined, part)
    return None if joined is None else unfold(*joined, q.shape[1])


def _pieces(runs: Iterable[PageRun], q: torch.Tensor) -> Iterator[PageRun]:
    """Yield runs in pieces fit for one call each."""
    for run in runs:
        start = 0
        for size in piece_sizes(q, len(run.key)):
            yield PageRun(run.key[start : start + size], run.value[start : start + size])
            start += size


def _call(q: torch.Tensor, run: PageRun, causal: bool, scale: float) -> Attended:
    key = run.key.transpose(0, 1).unsqueeze(0)
    value = run.value.transpose(0, 1).unsqueeze(0)
    return fused_attention(q, key, value, causal, scale)
