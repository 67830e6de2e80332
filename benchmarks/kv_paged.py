"""Attention over scattered pages, in Triton: what a paged cache runs instead of torch's kernel over one tensor.

One kernel serves decode and prefill, split over the keys as flash-decoding is. With `PAGED` off it reads the same
memory by position, so the two differ in the page table alone. It is written for that comparison, not for speed records.
"""

# ruff: noqa: N803 - constants of a Triton kernel are upper case by custom

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    query, memory, pages, output, logsum, scale, tokens, rows, share,
    HEADS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, PAGED: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Rows [m*M, m*M+M) of one head over positions [split*share, split*share+share)."""
    row = tl.program_id(0) * M + tl.arange(0, M)
    head = tl.program_id(1)
    split = tl.program_id(2)
    column = tl.arange(0, DIM)
    places = (row[:, None] * HEADS + head) * DIM + column[None, :]
    asked = tl.load(query + places, mask=row[:, None] < rows, other=0.0)
    best = tl.full([M], -1e30, tl.float32)
    total = tl.zeros([M], tl.float32)
    mixed = tl.zeros([M, DIM], tl.float32)
    end = tl.minimum(split * share + share, tokens)
    for start in range(split * share, end, N):
        position = start + tl.arange(0, N)
        inside = position < end
        if PAGED:
            page = tl.load(pages + position // PAGE, mask=inside, other=0)
            slot = page.to(tl.int64) * PAGE + position % PAGE
        else:
            slot = position.to(tl.int64)
        at = slot[:, None] * (2 * HEADS * DIM) + head * DIM + column[None, :]
        key = tl.load(memory + at, mask=inside[:, None], other=0.0)
        score = tl.dot(asked, tl.trans(key)) * scale
        score = tl.where(inside[None, :], score, -1e30)
        higher = tl.maximum(best, tl.max(score, 1))
        weight = tl.exp(score - higher[:, None])
        faded = tl.exp(best - higher)
        total = total * faded + tl.sum(weight, 1)
        value = tl.load(memory + at + HEADS * DIM, mask=inside[:, None], other=0.0)
        mixed = mixed * faded[:, None] + tl.dot(weight.to(value.dtype), value)
        best = higher
    tl.store(output + split * rows * HEADS * DIM + places, mixed / total[:, None], mask=row[:, None] < rows)
    tl.store(logsum + (split * rows + row) * HEADS + head, best + tl.log(total), mask=row < rows)


def attend_pages(
    query: torch.Tensor,
    memory: torch.Tensor,
    tokens: int,
    pages: torch.Tensor | None,
    page: int,
    scale: float,
) -> torch.Tensor:
    """Return attention of a query [rows, heads, dim] over the first `tokens` positions, unmasked.

    Args:
        query: Of the memory's dtype, contiguous.
        memory: [slots, 2, heads, dim], contiguous.
        tokens: Positions to attend to.
        pages: int32 page of each `page` positions; None when position and slot are one.
        page: Tokens a page.
        scale: What scores are multiplied by.
    """
    rows, heads, dim = query.shape
    tall = rows > 64
    m, n = (128, 64) if tall else (16, 64)
    splits = 1 if tall else max(1, min(512, tokens // 1024))
    share = -(-tokens // splits // n) * n
    splits = -(-tokens // share)
    output = torch.empty((splits, rows, heads, dim), dtype=torch.float32, device=query.device)
    logsum = torch.empty((splits, rows, heads), dtype=torch.float32, device=query.device)
    grid = (-(-rows // m), heads, splits)
    _attend[grid](
        query, memory, memory if pages is None else pages, output, logsum, scale, tokens, rows, share,
        HEADS=heads, DIM=dim, PAGE=page, PAGED=pages is not None, M=m, N=n, num_warps=8 if tall else 4,
    )  # fmt: skip
    weight = torch.softmax(logsum, 0).unsqueeze(-1)
    return (output * weight).sum(0).to(query.dtype)
