"""From a ModelSpec to the KV cache spec of each layer, as a vLLM version builds it."""

from __future__ import annotations

from functools import lru_cache
from math import lcm

from farspan.engines.vllm.kv_spec import KvSpec, SpecKind, ceil_div
from farspan.engines.vllm.pool import VllmKvLayout, make_layout
from farspan.engines.vllm.versions import VllmRules
from farspan.models.spec import AttentionKind, KvDtype, LayerSpec, ModelSpec

# FlashAttention's kernel takes any multiple of 16 (v1/attention/backends/flash_attn.py).
_KERNEL_BLOCK = 16
_DS_MLA_BYTES = 656  # 512 FP8 values, 4 float32 scales, 64 bf16 RoPE values (flashmla_sparse.py)


@lru_cache(maxsize=4096)
def kv_layout(
    model: ModelSpec,
    rules: VllmRules,
    *,
    tp: int,
    kv_dtype: KvDtype,
    block_size: int,
    hybrid: bool,
    prefix_caching: bool,
    context_ranks: int = 1,
    draft_tokens: int = 0,
    every_state: bool = False,
) -> VllmKvLayout:
    """The KV layout of a model on one rank. Cached: nothing in it depends on context or memory.

    Args:
        model: The model.
        rules: The version's rules.
        tp: Tensor-parallel size.
        kv_dtype: The resolved KV type.
        block_size: Tokens of a block, before a recurrent model raises it.
        hybrid: Whether hybrid groups are on.
        prefix_caching: Whether prefix caching is on (recurrent layers keep one more state).
        context_ranks: Ranks that share the tokens of one request.
        draft_tokens: Tokens drafted a step: recurrent layers keep a state for each.
        every_state: Whether recurrent layers keep a state for every block.

    Raises:
        GroupingError: vLLM cannot group the layers.
    """
    if model.is_compressed:
        from farspan.engines.vllm.compressed import compressed_layout  # for DeepSeek V4 alone

        return compressed_layout(model, rules)
    block = aligned_block(
        model,
        rules,
        tp=tp,
        kv_dtype=kv_dtype,
        block_size=block_size,
        draft_tokens=draft_tokens,
        every_state=every_state,
    )
    # MambaSpec.max_memory_usage_bytes: mode "all", "align" with prefix caching, else "none".
    states = (
        None
        if every_state
        else (2 if prefix_caching else 1) + (draft_tokens if rules.counts_draft_states else 0)
    )
    specs: dict[str, KvSpec] = {}
    for layer in model.layers:
        name = f"layers.{layer.index}.attn"
        if layer.shares_kv_with is not None or layer.attention is AttentionKind.NONE:
            continue
        specs[name] = _layer_spec(
            model, layer, rules, tp, kv_dtype, block, states, prefix_caching, draft_tokens=draft_tokens
        )
        if layer.indexer is not None:
            # One FP8 or bf16 key a token, on every rank (deepseek_v2.py: DeepseekV32IndexerCache).
            entry = layer.indexer.entry_bytes
            specs[f"{name}.indexer"] = KvSpec(SpecKind.MLA, block, 1, entry, 0, 1)
    return make_layout(specs, rules, hybrid=hybrid, context_ranks=context_ranks)


def aligned_block(
    model: ModelSpec,
    rules: VllmRules,
    *,
    tp: int,
    kv_dtype: KvDtype,
    block_size: int,
    draft_tokens: int = 0,
    every_state: bool = False,
) -> int:
    """The block size once an attention page is at least as large as a recurrent state.

    vllm 0.24.0 platforms/interface.py: _align_hybrid_block_size (0.12.0: HybridAttentionMambaModelConfig).
    """
    states = [layer.state_bytes(tp, drafted=draft_tokens) for layer in model.layers_of(AttentionKind.LINEAR)]
    attention = [layer for layer in model.layers if not layer.attention.keeps_no_tokens]
    if not states or not attention:
        return block_size
    token = _token_bytes(model, attention[0], tp, kv_dtype)
    alignment = max(_KERNEL_BLOCK, block_size)
    if rules.aligns_latent_blocks and attention[0].attention is AttentionKind.MLA:
        alignment = max(alignment, 128)
    if every_state:
        chunks = (state.chunk for layer in model.layers for state in layer.states if state.chunk)
        alignment = lcm(alignment, next(chunks, 1))
        return max(block_size, alignment * ceil_div(ceil_div(max(states), token), alignment))
    return max(block_size, alignment * ceil_div(max(states), alignment * token))


def _token_bytes(model: ModelSpec, layer: LayerSpec, tp: int, kv_dtype: KvDtype) -> int:
    if kv_dtype is KvDtype.FP8_DS_MLA:
        return _DS_MLA_BYTES
    return layer.kv_entry_bytes(kv_dtype.value_bytes(model.dtype_bytes), tp)


def _layer_spec(
    model: ModelSpec,
    layer: LayerSpec,
    rules: VllmRules,
    tp: int,
    kv_dtype: KvDtype,
    block: int,
    states: int | None,
    prefix_caching: bool,
    *,
    draft_tokens: int,
) -> KvSpec:
    value_bytes = kv_dtype.value_bytes(model.dtype_bytes)
    if layer.attention is AttentionKind.LINEAR:
        attention = next((other for other in model.layers if not other.attention.keeps_no_tokens), None)
        page = block * _token_bytes(model, attention, tp, kv_dtype) if attention else None
        return KvSpec(
            SpecKind.STATE,
            block,
            state_bytes=layer.state_bytes(tp, drafted=draft_tokens),
            page_padded=page,
            state_blocks=states,
            state_positions=prefix_caching,
        )
    if layer.attention is AttentionKind.MLA:
        packed = kv_dtype is KvDtype.FP8_DS_MLA
        return KvSpec(
            SpecKind.MLA,
            block,
            num_kv_heads=1,
            head_size=layer.head_dim,
            value_bytes=value_bytes,
            entry_bytes=_DS_MLA_BYTES if packed else None,
            cache_dtype=kv_dtype.value,
        )
    heads = layer.kv_heads_per_rank(tp)
    if layer.attention is AttentionKind.FULL:
        return KvSpec(SpecKind.FULL, block, heads, layer.head_dim, layer.value_head_dim, value_bytes)
    if layer.attention is AttentionKind.CHUNKED_LOCAL:
        kind = SpecKind.CHUNKED_LOCAL
        return KvSpec(kind, block, heads, layer.head_dim, layer.head_dim, value_bytes, layer.window)
    window_block = _KERNEL_BLOCK if rules.smallest_window_block else block
    value_head = layer.value_head_dim if rules.window_value_size else layer.head_dim
    kind = SpecKind.SLIDING_WINDOW
    return KvSpec(kind, window_block, heads, layer.head_dim, value_head, value_bytes, layer.window)
