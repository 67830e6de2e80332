"""The Triton kernels of `TritonOperations`; what each computes is said there and in `Operations`.

Sums are in float32. A slot of the cache may lie billions of elements behind the first: such offsets are int64.

Triton 3.6 believes of a sum that all of it is aligned as the first of several consecutive addends is, and then loads
more bytes at once than an address allows. So rows are multiplied by their stride before they become a column of a tile,
and the tokens of a page are a number that the compiler knows nothing of.
"""
# Triton kernels have no types to check, and their constants are written in capitals.
# mypy: ignore-errors
# ruff: noqa: N803, N806, SIM102

from __future__ import annotations

import triton
import triton.language as tl

# The largest magnitude of float8_e4m3fn, and the least scale of a head, as farspan/kv/formats.py has them.
_E4M3_MAX = tl.constexpr(448.0)
_LEAST_AMAX = tl.constexpr(1.1754943508222875e-38 * 448.0)


@triton.jit
def add_norm(
    residual, delta, weight, total, normed, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr
):
    """One program a token."""
    row = tl.program_id(0).to(tl.int64) * HIDDEN
    at = tl.arange(0, BLOCK)
    inside = at < HIDDEN
    x = tl.load(residual + row + at, mask=inside, other=0.0)
    if ADD:
        x = (x.to(tl.float32) + tl.load(delta + row + at, mask=inside, other=0.0).to(tl.float32)).to(x.dtype)
        tl.store(total + row + at, x, mask=inside)
    wide = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, 0) / HIDDEN + eps)
    gain = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row + at, (wide * scale * gain).to(x.dtype), mask=inside)


@triton.jit
def silu_mul(gate_up, scale, output, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SCALED: tl.constexpr):
    """One program a row and block of columns."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < WIDTH
    gate = tl.load(gate_up + row * 2 * WIDTH + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + at, mask=inside, other=0.0).to(tl.float32)
    if SCALED:
        factor = tl.load(scale + row)
        gate *= factor
        up *= factor
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(output + row * WIDTH + at, result.to(output.dtype.element_ty), mask=inside)


@triton.jit
def heads(
    qkv,
    query,
    key,
    value,
    cos,
    sin,
    temperature,
    slots,
    entries,
    scales,
    row_stride,
    scale_stride,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    ROPE: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    NORM: tl.constexpr,
    TUNED: tl.constexpr,
    PAGED: tl.constexpr,
    FP8: tl.constexpr,
):
    """One program a token and head: first those of queries, then of keys, then of values."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    half = tl.arange(0, BLOCK)
    inside = half < DIM // 2
    if INTERLEAVED:
        first = 2 * half
        second = 2 * half + 1
    else:
        first = half
        second = half + DIM // 2
    base = qkv + (token * (HEADS + 2 * KV_HEADS) + head) * DIM
    narrow_a = tl.load(base + first, mask=inside, other=0.0)
    a = narrow_a.to(tl.float32)
    b = tl.load(base + second, mask=inside, other=0.0).to(tl.float32)
    if head < HEADS + KV_HEADS:
        if ROPE:
            c = tl.load(cos + token * (DIM // 2) + half, mask=inside, other=0.0)
            s = tl.load(sin + token * (DIM // 2) + half, mask=inside, other=0.0)
            turned = (a * c - b * s).to(narrow_a.dtype).to(tl.float32)
            b = (a * s + b * c).to(narrow_a.dtype).to(tl.float32)
            a = turned
        if NORM:
            scale = 1.0 / tl.sqrt((tl.sum(a * a, 0) + tl.sum(b * b, 0)) / DIM + eps)
            a = a * scale
            b = b * scale
        if TUNED:
            if head < HEADS:
                factor = tl.load(temperature + token)
                a = a * factor
                b = b * factor
    narrow = query.dtype.element_ty
    if head < HEADS:
        row = (token * HEADS + head) * DIM
        tl.store(query + row + first, a.to(narrow), mask=inside)
        tl.store(query + row + second, b.to(narrow), mask=inside)
    else:
        pair = (head - HEADS) // KV_HEADS  # 0: a key, 1: a value
        kv_head = (head - HEADS) % KV_HEADS
        if PAGED:
            slot = tl.load(slots + token)
            wanted = inside & (slot >= 0)
            entry = slot * row_stride + (pair * KV_HEADS + kv_head) * DIM
            if FP8:
                a = a.to(narrow).to(tl.float32)
                b = b.to(narrow).to(tl.float32)
                largest = tl.maximum(tl.max(tl.abs(a), 0), tl.max(tl.abs(b), 0))
                unit = tl.maximum(largest, _LEAST_AMAX) / _E4M3_MAX
                a = tl.minimum(tl.maximum(a / unit, -_E4M3_MAX), _E4M3_MAX)
                b = tl.minimum(tl.maximum(b / unit, -_E4M3_MAX), _E4M3_MAX)
                tl.store(scales + slot * scale_stride + pair * KV_HEADS + kv_head, unit, mask=slot >= 0)
            tl.store(entries + entry + first, a.to(entries.dtype.element_ty), mask=wanted)
            tl.store(entries + entry + second, b.to(entries.dtype.element_ty), mask=wanted)
        else:
            row = (token * KV_HEADS + kv_head) * DIM
            if pair == 0:
                tl.store(key + row + first, a.to(narrow), mask=inside)
                tl.store(key + row + second, b.to(narrow), mask=inside)
            else:
                tl.store(value + row + first, a.to(narrow), mask=inside)
                tl.store(value + row + second, b.to(narrow), mask=inside)


@triton.jit(do_not_specialize=["page_tokens"])
def attend_split(
    query,
    entries,
    scales,
    table,
    rows,
    first_pages,
    positions,
    partial,
    logsums,
    scale_log2,
    table_stride,
    row_units,
    scale_stride,
    page_tokens,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    UNIT: tl.constexpr,
    GROUP: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    FP8: tl.constexpr,
):
    """One program a part of a sequence's positions, KV head and sequence; softmax in base 2."""
    split = tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = tl.program_id(2)
    PER_KV: tl.constexpr = HEADS // KV_HEADS
    position = tl.load(positions + sequence)
    start = tl.zeros([], tl.int64)
    if CHUNK > 0:
        start = tl.maximum(position, 0) // CHUNK * CHUNK
    stop = position + 1
    each = tl.cdiv(tl.cdiv(stop - start, SPLITS), BLOCK) * BLOCK
    low = start + split * each
    high = tl.minimum(low + each, stop)
    pages = table + tl.load(rows + sequence) * table_stride - tl.load(first_pages + sequence)
    member = tl.arange(0, GROUP)
    channel = tl.arange(0, DIM)
    token = tl.arange(0, BLOCK)
    head = kv_head * PER_KV + member
    mine = member < PER_KV
    rows_of_query = (sequence * HEADS + head) * DIM
    q = tl.load(query + rows_of_query[:, None] + channel[None, :], mask=mine[:, None], other=0.0)
    largest = tl.full([GROUP], float("-inf"), tl.float32)
    total = tl.zeros([GROUP], tl.float32)
    output = tl.zeros([GROUP, DIM], tl.float32)
    for begin in range(low, high, BLOCK):
        at = begin + token
        inside = at < high
        page = tl.load(pages + at // page_tokens, mask=inside, other=0).to(tl.int64)
        slot = page * page_tokens + at % page_tokens
        row = slot * row_units * UNIT
        keys = entries + row[:, None] + kv_head * DIM + channel[None, :]
        k = tl.load(keys, mask=inside[:, None], other=0.0).to(q.dtype)
        v = tl.load(keys + KV_HEADS * DIM, mask=inside[:, None], other=0.0).to(q.dtype)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        if FP8:
            unit = scales + slot * scale_stride + kv_head
            score *= tl.load(unit, mask=inside, other=0.0)[None, :]
        score = tl.where(inside[None, :], score, float("-inf"))
        higher = tl.maximum(largest, tl.max(score, 1))
        shrink = tl.exp2(largest - higher)
        weight = tl.exp2(score - higher[:, None])
        total = total * shrink + tl.sum(weight, 1)
        if FP8:
            weight *= tl.load(unit + KV_HEADS, mask=inside, other=0.0)[None, :]
        output = output * shrink[:, None] + tl.dot(weight.to(q.dtype), v, input_precision="ieee")
        largest = higher
    # A part without positions weighs nothing.
    filled = low < high
    divisor = tl.where(filled, total, 1.0)
    to = (sequence * HEADS + head) * SPLITS + split
    tl.store(logsums + to, tl.where(filled, largest + tl.log2(divisor), float("-inf")), mask=mine)
    rows_of_part = to * DIM
    tl.store(
        partial + rows_of_part[:, None] + channel[None, :], output / divisor[:, None], mask=mine[:, None]
    )


@triton.jit
def attend_join(
    partial,
    logsums,
    output,
    DIM: tl.constexpr,
    CHANNELS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a query head of a sequence and block of channels."""
    row = tl.program_id(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    split = tl.arange(0, SPLITS)
    everything = tl.load(logsums + row * SPLITS + split)
    largest = tl.max(everything, 0)
    largest = tl.where(largest == float("-inf"), 0.0, largest)
    total = tl.sum(tl.exp2(everything - largest), 0)
    total = tl.where(total == 0.0, 1.0, total)
    result = tl.zeros([CHANNELS], tl.float32)
    for begin in range(0, SPLITS, BLOCK):
        some = begin + tl.arange(0, BLOCK)
        weight = tl.exp2(tl.load(logsums + row * SPLITS + some) - largest) / total
        rows = (row * SPLITS + some) * DIM
        part = tl.load(partial + rows[:, None] + channel[None, :])
        result += tl.sum(part * weight[:, None], 0)
    tl.store(output + row * DIM + channel, result.to(output.dtype.element_ty))


@triton.jit
def join(
    output,
    logsum,
    other,
    other_logsum,
    joined,
    whole,
    tokens,
    output_head,
    output_token,
    logsum_head,
    logsum_token,
    other_head,
    other_token,
    other_logsum_head,
    other_logsum_token,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One program a head and block of tokens; what is joined lies as the output does."""
    head = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    inside = token < tokens
    both = inside[:, None] & (channel < DIM)[None, :]
    one = tl.load(logsum + head * logsum_head + token * logsum_token, mask=inside, other=0.0)
    two = tl.load(
        other_logsum + head * other_logsum_head + token * other_logsum_token, mask=inside, other=0.0
    )
    largest = tl.maximum(one, two)
    total = largest + tl.log(tl.exp(one - largest) + tl.exp(two - largest))
    row = token * output_token
    place = head * output_head + row[:, None] + channel[None, :]
    a = tl.load(output + place, mask=both, other=0.0).to(tl.float32) * tl.exp(one - total)[:, None]
    row_other = token * other_token
    place_other = head * other_head + row_other[:, None] + channel[None, :]
    b = tl.load(other + place_other, mask=both, other=0.0).to(tl.float32) * tl.exp(two - total)[:, None]
    tl.store(joined + place, a + b, mask=both)
    tl.store(whole + head * tokens + token, total, mask=inside)


@triton.jit
def route(logits, experts, scores, EXPERTS: tl.constexpr, BLOCK: tl.constexpr, TOP: tl.constexpr):
    """One program a token; behind its experts stands the shared one, with a score of one."""
    token = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    left = tl.load(logits + token * EXPERTS + at, mask=at < EXPERTS, other=float("-inf")).to(tl.float32)
    for slot in tl.static_range(TOP):
        best = tl.max(left, 0)
        which = tl.argmax(left, 0)
        tl.store(experts + token * (TOP + 1) + slot, which)
        tl.store(scores + token * (TOP + 1) + slot, 1.0 / (1.0 + tl.exp(-best)))
        left = tl.where(at == which, float("-inf"), left)
    tl.store(experts + token * (TOP + 1) + TOP, EXPERTS)
    tl.store(scores + token * (TOP + 1) + TOP, 1.0)


@triton.jit
def experts_up(
    x,
    experts,
    scores,
    weights,
    inner,
    SLOTS: tl.constexpr,
    HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program an expert of a token and block of its columns: silu(gate) x up, both times the score."""
    slot = tl.program_id(0)
    token = slot // SLOTS
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    wanted = column < WIDTH
    row_of = column * HIDDEN
    base = weights + tl.load(experts + slot).to(tl.int64) * (2 * WIDTH * HIDDEN) + row_of[:, None]
    gate = tl.zeros([COLUMNS, BLOCK], tl.float32)
    up = tl.zeros([COLUMNS, BLOCK], tl.float32)
    for begin in range(0, HIDDEN, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        inside = at < HIDDEN
        row = tl.load(x + token * HIDDEN + at, mask=inside, other=0.0).to(tl.float32)
        both = wanted[:, None] & inside[None, :]
        gate += tl.load(base + at[None, :], mask=both, other=0.0).to(tl.float32) * row[None, :]
        up += tl.load(base + WIDTH * HIDDEN + at[None, :], mask=both, other=0.0).to(tl.float32) * row[None, :]
    score = tl.load(scores + slot)
    g = tl.sum(gate, 1) * score
    result = g / (1.0 + tl.exp(-g)) * (tl.sum(up, 1) * score)
    tl.store(inner + slot * WIDTH + column, result.to(inner.dtype.element_ty), mask=wanted)


@triton.jit
def experts_down(
    inner,
    experts,
    weights,
    output,
    SLOTS: tl.constexpr,
    HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a token and block of columns: the sum over its experts."""
    token = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    wanted = column < HIDDEN
    total = tl.zeros([COLUMNS, BLOCK], tl.float32)
    for slot in tl.static_range(SLOTS):
        expert = tl.load(experts + token * SLOTS + slot).to(tl.int64)
        row_of = column * WIDTH
        base = weights + expert * (HIDDEN * WIDTH) + row_of[:, None]
        for begin in range(0, WIDTH, BLOCK):
            at = begin + tl.arange(0, BLOCK)
            inside = at < WIDTH
            row = tl.load(inner + (token * SLOTS + slot) * WIDTH + at, mask=inside, other=0.0).to(tl.float32)
            both = wanted[:, None] & inside[None, :]
            total += tl.load(base + at[None, :], mask=both, other=0.0).to(tl.float32) * row[None, :]
    result = tl.sum(total, 1)
    tl.store(output + token * HIDDEN + column, result.to(output.dtype.element_ty), mask=wanted)


@triton.jit
def sum_rows(base, rows, places, output, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, EACH: tl.constexpr):
    """One program a token and block of columns."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < HIDDEN
    total = tl.load(base + token * HIDDEN + at, mask=inside, other=0.0).to(tl.float32)
    for slot in tl.static_range(EACH):
        place = tl.load(places + token * EACH + slot)
        total += tl.load(rows + place * HIDDEN + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(output + token * HIDDEN + at, total.to(output.dtype.element_ty), mask=inside)
