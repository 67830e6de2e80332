"""One call of a fused attention kernel, with the log of its softmax's sum: torch's on a CPU, cuDNN's or flash on a GPU.

cuDNN's is the fastest there and prepares itself for each shape anew, which takes milliseconds: it gets shapes that come
again, and flash the others. Whether it is right on this GPU is tried once, before it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

_LOG = logging.getLogger(__name__)
# Positions of one call at the most.
_LARGEST_PIECE = 2**20
# cuDNN gets queries and keys by multiples of this.
_CUDNN_MULTIPLE = 1024
_CUDNN_DIMS = (64, 128)
# Shapes that cuDNN has no plan for; an empty one stands for all.
_refused: set[tuple[int, ...]] = set()

# An output [1, heads, tokens, head_dim] and the log-sum-exp of its scores, float32 [1, heads, tokens].
Attended = tuple[torch.Tensor, torch.Tensor]


def fused_attention(
    q: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float
) -> Attended:
    """Attend once.

    Args:
        q: [1, heads, tokens, head_dim].
        key: [1, KV heads, positions, head_dim].
        value: As the key.
        causal: Whether query i sees keys up to i only; there are as many of both then.
        scale: What scores are multiplied by.

    Returns:
        The output [1, heads, tokens, head_dim], and the log-sum-exp of the scores, float32 [1, heads, tokens].
    """
    if q.device.type == "cpu":
        output, logsum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, key, value, 0.0, causal, scale=scale
        )
        return output, logsum
    group = q.shape[1] // key.shape[1]
    if group > 1:  # the kernels want as many key heads as query heads; unmasked calls come folded
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    if q.dtype == torch.float32:  # the flash kernel takes 16-bit types only; this one pads the log-sum-exp
        result = torch.ops.aten._scaled_dot_product_efficient_attention(
            q, key, value, None, True, 0.0, causal, scale=scale
        )
        return result[0], result[1][:, :, : q.shape[2]]
    fits = q.shape[2] % _CUDNN_MULTIPLE == 0 and key.shape[2] % _CUDNN_MULTIPLE == 0
    shape = (*q.shape, *key.shape, causal)
    if fits and shape not in _refused and cudnn_is_right(q.device, q.dtype, q.shape[3]):
        try:
            return _cudnn(q, key, value, causal, scale)
        except RuntimeError as problem:
            _refused.add(shape)
            _LOG.warning(
                "attention of shape %s is torch's flash kernel: cuDNN's is refused (%s)", shape, problem
            )
    return _flash(q, key, value, causal, scale)


def join_attended(part: Attended, other: Attended) -> Attended:
    """Return two attended parts over disjoint keys as one in float32: each weighed by its share of the whole sum."""
    (output, logsum), (other_output, other_logsum) = part, other
    whole = torch.logaddexp(logsum, other_logsum)
    joined = output.float() * (logsum - whole).exp().unsqueeze(-1)
    joined.addcmul_(other_output.float(), (other_logsum - whole).exp().unsqueeze(-1))
    return joined, whole


def piece_sizes(q: torch.Tensor, count: int) -> Iterator[int]:
    """Yield the positions of each call that attends to `count` without a mask.

    Where cuDNN may be used they are powers of two and a rest, so that a growing context has few shapes.
    """
    powers = q.device.type != "cpu" and q.dtype != torch.float32 and q.shape[2] % _CUDNN_MULTIPLE == 0
    while count:
        size = min(count, _LARGEST_PIECE)
        if powers and size > _CUDNN_MULTIPLE:
            size = 1 << (size.bit_length() - 1)
        yield size
        count -= size


def fold(q: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """Return the queries of the heads that share a KV head as more queries of one head.

    Without a mask a query is the same wherever it stands, and keys need not be repeated for the heads that share them.
    A CPU's kernel shares them by itself, so there q is returned as it is.

    Args:
        q: [1, heads, tokens, head_dim], a view of [tokens, heads, head_dim].
        kv_heads: KV heads.

    Returns:
        [1, KV heads, tokens x heads a KV head, head_dim]; a view where there is one KV head.
    """
    if q.device.type == "cpu" or q.shape[1] == kv_heads:
        return q
    return _folded(q, kv_heads)


def _folded(q: torch.Tensor, kv_heads: int) -> torch.Tensor:
    _, heads, tokens, dim = q.shape
    return q.view(1, kv_heads, heads // kv_heads, tokens, dim).transpose(2, 3).flatten(2, 3)


def unfold(output: torch.Tensor, logsum: torch.Tensor, heads: int) -> Attended:
    """Return what was attended with folded queries, for each head."""
    kv_heads = output.shape[1]
    if kv_heads == heads:
        return output, logsum
    group = heads // kv_heads
    rows, dim = output.shape[2:]
    apart = (1, kv_heads, rows // group, group)
    return (
        output.view(*apart, dim).transpose(2, 3).flatten(1, 2),
        logsum.view(apart).transpose(2, 3).flatten(1, 2),
    )


def _flash(q: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float) -> Attended:
    result = torch.ops.aten._scaled_dot_product_flash_attention(
        q, key, value, 0.0, causal, False, scale=scale
    )
    return result[0], result[1]


def _cudnn(q: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float) -> Attended:
    result: Any = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, key, value, None, True, 0.0, causal, False, scale=scale
    )
    output = result[0]
    return output, result[1].reshape(output.shape[:3])


def refuse_cudnn(problem: str) -> None:
    """Never ask cuDNN in this process: it faulted in another."""
    _refused.add(())
    _LOG.warning("attention is torch's flash kernel: cuDNN's is refused here (%s)", problem)


@cache
def cudnn_is_right(device: torch.device, dtype: torch.dtype, dim: int) -> bool:
    """Try cuDNN's attention, masked and not, on keys that lie as the cache has them."""
    if dim not in _CUDNN_DIMS or () in _refused:
        return False
    try:
        generator = torch.Generator(device).manual_seed(0)
        rows = torch.randn(2048, 2, 1, dim, device=device, dtype=torch.float32, generator=generator).to(dtype)
        query = torch.randn(1024, 2, dim, device=device, dtype=torch.float32, generator=generator).to(dtype)
        worst = 0.0
        for causal in (False, True):
            q = query.transpose(0, 1).unsqueeze(0)
            run = rows[:1024] if causal else rows
            key, value = (run[:, index].transpose(0, 1).unsqueeze(0) for index in (0, 1))
            if causal:
                key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
            else:
                q = _folded(q, 1)
            actual, logsum = _cudnn(q, key, value, causal, dim**-0.5)
            scores = (q.float() @ key.float().transpose(2, 3)) * dim**-0.5
            if causal:
                hidden = torch.ones(1024, 1024, dtype=torch.bool, device=device).triu(1)
                scores = scores.masked_fill(hidden, -torch.inf)
            expected = torch.softmax(scores, -1) @ value.float()
            worst = max(
                worst,
                float((actual.float() - expected).abs().max()),
                float((logsum - scores.logsumexp(-1)).abs().max()),
            )
    except Exception as problem:  # noqa: BLE001 whatever it is, flash attention is there
        _LOG.warning("attention is torch's flash kernel: cuDNN's is refused here (%s)", problem)
        return False
    if not worst < 0.03:
        _LOG.warning("attention is torch's flash kernel: cuDNN's is off by %.3g here", worst)
        return False
    _LOG.info("attention is cuDNN's, %s, heads of %d channels", dtype, dim)
    return True
