"""What one request keeps in the KV cache, layer kind by layer kind, before any engine rounds it to pages."""

from __future__ import annotations

from typing import NamedTuple

from farspan.models.spec import AttentionKind, KvDtype, LayerSpec
from farspan.planner.request import PlanRequest


class KindCost(NamedTuple):
    """Layers that keep the same of a request.

    Args:
        layers: How many there are.
        keeps: What each keeps, in words.
        bytes: Bytes of one request in all of them on one GPU.
    """

    layers: int
    keeps: str
    bytes: int


class KvCost(NamedTuple):
    """KV of one request on one GPU.

    Args:
        dtype: The KV type, in words.
        bytes_per_token: What a token takes while every layer still keeps it.
        bytes: What the whole request keeps.
        kinds: The same by kind of layer.
    """

    dtype: str
    bytes_per_token: int
    bytes: int
    kinds: tuple[KindCost, ...]


def _keeps(layer: LayerSpec) -> str:
    if layer.shares_kv_with is not None:
        return "nothing of their own"
    words = {
        AttentionKind.FULL: "every token",
        AttentionKind.MLA: "one latent a token",
        AttentionKind.CHUNKED_LOCAL: f"the current chunk of {layer.window:,}" if layer.window else "",
        AttentionKind.SLIDING_WINDOW: f"the last {layer.window:,} tokens" if layer.window else "",
        AttentionKind.LINEAR: "a state of fixed size",
        AttentionKind.NONE: "nothing",
        AttentionKind.COMPRESSED: f"the last {layer.window:,} tokens" if layer.window else "",
    }[layer.attention]
    if layer.attention is AttentionKind.COMPRESSED and layer.tokens_per_entry:
        words += f" and one latent for every {layer.tokens_per_entry}"
    return f"{words} and its index key" if layer.indexer and layer.tokens_per_entry == 1 else words


def asked_kv_dtype(request: PlanRequest) -> KvDtype:
    """The KV type of the request, or of its engine flags where those name one farspan knows."""
    given = request.text_flag("", "--kv-cache-dtype")
    asked = KvDtype(given) if given in {kind.value for kind in KvDtype} else request.kv_dtype
    return KvDtype.FP8 if asked is KvDtype.AUTO and request.model.kv_fp8 else asked


def kv_cost(request: PlanRequest) -> KvCost:
    """What one request of `request.context` tokens keeps on one GPU (models/spec.py: LayerSpec.kv_bytes)."""
    model, dtype = request.model, asked_kv_dtype(request)
    width = dtype.value_bytes(model.dtype_bytes)
    groups: dict[str, list[int]] = {}
    for layer in model.layers:
        groups.setdefault(_keeps(layer), []).append(layer.kv_bytes(request.context, width, request.tp))
    kinds = tuple(KindCost(len(costs), keeps, sum(costs)) for keeps, costs in groups.items())
    return KvCost(
        dtype=model.torch_dtype if dtype is KvDtype.AUTO else dtype.value,
        bytes_per_token=model.kv_bytes_per_token(dtype, request.tp),
        bytes=sum(kind.bytes for kind in kinds),
        kinds=tuple(sorted(kinds, key=lambda kind: -kind.bytes)),
    )
