"""Attention of one step over the keys a sequence already has, in memory linear in both.

Keys and values come as runs, contiguous pieces in order of position. Each run is one call of torch's fused attention,
which also returns the log of its softmax's sum; partial results are joined by these as they come, so that neither an
N x N matrix nor a gathered copy of the cache ever exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from farspan.kv.interface import PageRun, SequenceKV

# Positions of one call when keys are repeated for the query heads that share them: the copy is one run long.
LARGEST_RUN = 65536
# Of one call when nothing is copied.
_LARGEST_VIEW = 2**20


def attend(
    query: torch.Tensor, sequence: SequenceKV, layer: int, start: int, chunk: int | None, scale: float
) -> torch.Tensor:
    """Return attention of positions [start, start + tokens) over those before them and themselves.

    Args:
        query: [tokens, num_heads, head_dim], of one sequence; its keys and values are already written.
        sequence: Where keys and values are.
        layer: Which layer's.
        start: Position of the first query.
        chunk: None for full attention; otherwise a query sees only positions of its own chunk.
        scale: What scores are multiplied by.

    Returns:
        [tokens, num_heads, head_dim], of the query's dtype.
    """
    stop = start + int(query.shape[0])
    if chunk is None:
        return _attend_span(query, sequence, layer, 0, start, stop, scale)
    pieces = []
    low = start
    while low < stop:
        first = low // chunk * chunk
        high = min(stop, first + chunk)
        part = query[low - start : high - start]
        pieces.append(_attend_span(part, sequence, layer, first, low, high, scale))
        low = high
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _attend_span(
    query: torch.Tensor, sequence: SequenceKV, layer: int, first: int, start: int, stop: int, scale: float
) -> torch.Tensor:
    """Attend from [start, stop) to [first, start) without a mask and to [start, stop) causally."""
    # [tokens, heads, dim] -> [1, heads, tokens, dim], a view
    q = query.transpose(0, 1).unsqueeze(0)
    own = list(sequence.runs(layer, start, stop))
    if len(own) > 1:
        own = [PageRun(torch.cat([run.key for run in own]), torch.cat([run.value for run in own]))]
    output, logsum = _fused(q, own[0], True, scale)
    for piece in _pieces(sequence.runs(layer, first, start), query):
        output, logsum = _join(output, logsum, *_fused(q, piece, False, scale))
    return output[0].transpose(0, 1).to(query.dtype)


def attend_runs(query: torch.Tensor, runs: Iterable[PageRun], scale: float) -> torch.Tensor:
    """Return attention of a query [tokens, num_heads, head_dim] over all positions of one or more runs, unmasked."""
    q = query.transpose(0, 1).unsqueeze(0)
    pieces = _pieces(runs, query)
    output, logsum = _fused(q, next(pieces), False, scale)
    for piece in pieces:
        output, logsum = _join(output, logsum, *_fused(q, piece, False, scale))
    return output[0].transpose(0, 1).to(query.dtype)


def _pieces(runs: Iterable[PageRun], query: torch.Tensor) -> Iterator[PageRun]:
    """Yield runs in pieces short enough for one call each."""
    for run in runs:
        repeated = query.device.type != "cpu" and query.shape[1] > run.key.shape[1]
        size = LARGEST_RUN if repeated else _LARGEST_VIEW
        for start in range(0, len(run.key), size):
            yield PageRun(run.key[start : start + size], run.value[start : start + size])


def _fused(q: torch.Tensor, run: PageRun, causal: bool, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (output [1, heads, tokens, dim], log-sum-exp [1, heads, tokens]) of one run."""
    key = run.key.transpose(0, 1).unsqueeze(0)
    value = run.value.transpose(0, 1).unsqueeze(0)
    if q.device.type == "cpu":
        output, logsum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, key, value, 0.0, causal, scale=scale
        )
        return output, logsum
    group = q.shape[1] // key.shape[1]
    if group > 1:  # the CUDA kernels want as many key heads as query heads; the copy is one run long
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    if q.dtype == torch.float32:  # the flash kernel takes 16-bit types only; this one pads the log-sum-exp
        result = torch.ops.aten._scaled_dot_product_efficient_attention(
            q, key, value, None, True, 0.0, causal, scale=scale
        )
        return result[0], result[1][:, :, : q.shape[2]]
    result = torch.ops.aten._scaled_dot_product_flash_attention(
        q, key, value, 0.0, causal, False, scale=scale
    )
    return result[0], result[1]


def _join(
    output: torch.Tensor, logsum: torch.Tensor, other: torch.Tensor, other_logsum: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Join two softmaxes over disjoint keys: weigh each output by its share of the whole sum."""
    whole = torch.logaddexp(logsum, other_logsum)
    joined = output.float() * (logsum - whole).exp().unsqueeze(-1)
    joined.addcmul_(other.float(), (other_logsum - whole).exp().unsqueeze(-1))
    return joined, whole
