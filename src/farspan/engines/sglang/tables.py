"""What grows with the context outside the static fraction: request-to-token rows and CUDA-graph page tables.

Nothing here is subtracted when the KV pool is sized: it must fit in what --mem-fraction-static leaves free.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from farspan.engines.sglang.versions import SglangRules
from farspan.models.spec import ModelSpec
from farspan.models.tensors import RopeSpec

INT32 = 4
INT64 = 8
_EXTRA_COLUMNS = 4  # model_runner.py: extra_max_context_len; get_req_to_token_extra_context_len
_FEWEST_ROWS, _MOST_ROWS, _ROWS_PER_CONTEXT = 2048, 4096, 512
_ROPE_MARGIN, _ROPE_ALIGN = 256, 128  # SGLANG_ROPE_CACHE_SAFETY_MARGIN, SGLANG_ROPE_CACHE_ALIGN


class GraphShape(NamedTuple):
    """What an attention backend's graph state is sized by.

    Args:
        batch: Largest captured batch.
        context_length: The server's context length, tokens.
        page_size: Tokens a page.
        chunk: Llama 4's attention chunk; 0 without chunked-local layers.
        window: Sliding window or chunk that triton and FlashInfer keep a list for; 0 without one.
        split_pools: Whether window layers have a pool of their own.
        heads: Query heads on one rank.
        value_dim: Size of one value.
        rows: Request slots.
        uses_mla: Whether the model uses MLA.
        index_top_k: Tokens a sparse-attention query attends to; 0 without.
        amd: Whether the GPU is AMD's.
    """

    batch: int
    context_length: int
    page_size: int
    chunk: int
    window: int
    split_pools: bool
    heads: int
    value_dim: int
    rows: int
    uses_mla: bool
    index_top_k: int
    amd: bool


class GraphTable(NamedTuple):
    """One buffer of the graph state: `width` bytes times the `factors`; `mirrored` is False where the
    backend's code was not mirrored."""

    name: str
    width: int
    factors: tuple[int, ...]
    mirrored: bool = True

    @property
    def bytes(self) -> int:
        """Bytes of the buffer."""
        return self.width * prod(self.factors)

    @property
    def formula(self) -> str:
        """The arithmetic, as the ledger shows it."""
        return f"{self.width} B x " + " x ".join(f"{factor:,}" for factor in self.factors)


def request_rows(
    tokens: int, context_length: int, asked: int | None, rules: SglangRules, state_cap: int | None = None
) -> int:
    """Request slots (`init_memory_pool`, from 0.5.16 `resolve_max_num_reqs`): what was asked for, else 512
    times the contexts the pool holds, at least 2048 and at most 4096."""
    rows = asked
    if rows is None:
        rows = min(max(int(tokens / context_length * _ROWS_PER_CONTEXT), _FEWEST_ROWS), _MOST_ROWS)
    if rules.rows_capped_by_pool and (asked is None or rules.given_rows_capped):
        rows = min(rows, tokens // 2)
    return rows if state_cap is None else min(rows, state_cap)


def request_table_bytes(rows: int, context_length: int, rules: SglangRules, drafted: int = 0) -> int:
    """`ReqToTokenPool`: int32 [rows (+1 padding row from 0.5.12), context + 4 + tokens drafted at once]."""
    return (rows + rules.padding_row) * (context_length + _EXTRA_COLUMNS + drafted) * INT32


def index_bytes(full: int, window: int, page_size: int, rules: SglangRules) -> int:
    """Free lists of the token allocators and, with split pools, the map from one to the other (int64)."""
    free = (full // page_size + window // page_size) * INT64
    if not window:
        return free
    mapping = full + window + 1 if rules.hybrid_flag else full + page_size + 1
    return free + mapping * INT64


def served_ropes(model: ModelSpec, rules: SglangRules) -> tuple[RopeSpec, ...]:
    """The model's tables as this version makes them: full layers of Gemma 3 too have the default one, whatever the
    config's scaling (0.5.10 models/gemma3_causal.py: Gemma3Attention)."""
    if model.architecture not in rules.ropes_unscaled:
        return model.ropes
    return tuple(RopeSpec(rope.rotary_dim, model.max_position_embeddings) for rope in model.ropes)


def rope_bytes(rope: RopeSpec, context_length: int) -> int:
    """A cos/sin table: float32 on CUDA whatever the model's dtype (`RotaryEmbedding.__init__`), grown to the
    context and a margin (`reserve_rope_cache_for_long_sequences`)."""
    reserve = -(-(context_length + _ROPE_MARGIN) // _ROPE_ALIGN) * _ROPE_ALIGN
    return max(rope.positions, reserve) * rope.rotary_dim * 4


def rope_covers(rope: RopeSpec) -> int:
    """A context up to which the table is as long as the model makes it."""
    return rope.positions // _ROPE_ALIGN * _ROPE_ALIGN - _ROPE_MARGIN


def radix_copy_bytes(prompt: int, chunk: int) -> int:
    """Index copies of the prefix tree in 0.5.6.post2 and 0.5.7: every chunk's node keeps all indices before
    it, 8 C k(k+1)/2 bytes for k chunks of C tokens (`RadixCache._insert_helper`)."""
    if chunk <= 0:
        return INT64 * prompt
    chunks = -(-prompt // chunk)
    return INT64 * chunk * chunks * (chunks + 1) // 2


def captured_batch(graph_bs: tuple[int, ...], rows: int) -> int:
    """The largest captured batch: the largest asked for, or the request slots where they are fewer
    (`get_batch_sizes_to_capture` adds them to its list)."""
    return min(max(graph_bs), rows)


def graph_tables(backend: str, shape: GraphShape, rules: SglangRules) -> tuple[GraphTable, ...]:
    """Buffers `init_cuda_graph_state` of one attention backend allocates."""
    if backend in ("torch_native", "flex_attention"):
        return ()
    if backend in ("fa3", "fa4"):
        return _flash_attention(shape, rules)
    if backend == "triton":
        return _triton(shape, rules)
    if backend == "flashinfer":
        return _flashinfer_mla(shape) if shape.uses_mla else _flashinfer(shape, rules)
    if backend == "trtllm_mha":
        return _trtllm_mha(shape, rules)
    if backend in ("trtllm_mla", "flashmla"):
        return (_table("page_table", shape.batch, shape.context_length // 64 + 1),)
    if backend == "nsa":
        return (_table("page_table", shape.batch, shape.context_length),)
    if backend == "dsa":
        width = shape.context_length + _EXTRA_COLUMNS
        if 0 < shape.index_top_k <= 2048 and not shape.amd:  # dsa_drop_wide_page_table
            return (_table("real_page_table", shape.batch, _pages(width, 64)),)
        return (_table("page_table", shape.batch, width),)
    return (_table("kv_indices", shape.batch, shape.context_length)._replace(mirrored=False),)


def _flash_attention(shape: GraphShape, rules: SglangRules) -> tuple[GraphTable, ...]:
    """`FlashAttentionBackend.init_cuda_graph_state`."""
    batch, context = shape.batch, shape.context_length
    pages = _pages(context, shape.page_size)
    lengths = 3 * batch + 2
    if rules.newest_api and not shape.uses_mla:
        lengths += 1 + -(-batch // 4) * 4 * 4  # scheduler metadata
    tables = [
        _table("page_table", batch, pages),
        GraphTable("strided_indices", INT64, (pages,)),
        GraphTable("sequence lengths", INT32, (lengths,)),
    ]
    if shape.chunk:
        virtual = batch * -(-context // shape.chunk)
        per_block = _pages(shape.chunk, shape.page_size)
        tables.append(_table("local_block_table", virtual, per_block))
        tables.append(GraphTable("local lengths", INT32, (2 * virtual + 1,)))
    if rules.swa_page_table and shape.split_pools:
        tables.append(_table("swa_page_table", batch, pages))
        tables.append(GraphTable("swa_out_cache_loc", INT64, (batch,)))
    if rules.encoder_page_table:
        tables.append(_table("encoder_page_table", batch, context))
        tables.append(GraphTable("encoder lengths", INT32, (2 * batch + 1,)))
    return tuple(tables)


def _triton(shape: GraphShape, rules: SglangRules) -> tuple[GraphTable, ...]:
    """`TritonAttnBackend.init_cuda_graph_state` (0.5.23's lean-decode buffers, a few MiB, left out)."""
    batch, context = shape.batch, shape.context_length
    splits = 16 if shape.amd else 8
    logits = batch * shape.heads * splits * (shape.value_dim + 1)
    tables = [
        GraphTable("kv_indices", INT64, (batch, context)),
        GraphTable("attention logits", 4, (logits,)),
        GraphTable("num_kv_splits", INT32, (batch,)),
    ]
    if rules.triton_uneven_batch:
        tables.append(GraphTable("uneven_batch", INT32, (1,)))
    if rules.triton_mask:
        tables.append(GraphTable("custom_mask", 1, (batch, context)))
    if shape.window:
        tables.append(GraphTable("window_kv_indices", INT64, (batch, shape.window)))
        tables.append(GraphTable("window splits", 2 * INT32, (batch,)))
    if rules.newest_api and shape.split_pools:
        tables.append(GraphTable("swa_out_cache_loc", INT64, (batch,)))
    return tuple(tables)


def _flashinfer(shape: GraphShape, rules: SglangRules) -> tuple[GraphTable, ...]:
    """`FlashInferAttnBackend.init_cuda_graph_state`: one index list a wrapper, two wrappers with a window."""
    batch, context = shape.batch, shape.context_length
    wrappers = 2 if shape.window and not shape.chunk else 1
    indptr = 2 * wrappers * (shape.rows + 1)
    tables = (
        GraphTable("kv_indices", INT32, (batch, context, wrappers)),
        GraphTable("custom_mask", 1, (batch, context)),
        GraphTable("indptr", INT32, (indptr,)),
    )
    if rules.newest_api and shape.split_pools:
        return (*tables, GraphTable("swa_out_cache_loc", INT64, (batch,)))
    return tables


def _flashinfer_mla(shape: GraphShape) -> tuple[GraphTable, ...]:
    """`FlashInferMLAAttnBackend.init_cuda_graph_state`."""
    return (_table("kv_indices", shape.batch, shape.context_length),)


def _trtllm_mha(shape: GraphShape, rules: SglangRules) -> tuple[GraphTable, ...]:
    """`TRTLLMHAAttnBackend.init_cuda_graph_state`."""
    pages = _pages(shape.context_length, shape.page_size)
    tables = [_table("page_table", shape.batch, pages)]
    if rules.trtllm_strided_indices:
        tables.append(GraphTable("strided_indices", INT64, (pages,)))
    if rules.trtllm_swa_page_table and shape.split_pools:
        tables.append(_table("swa_page_table", shape.batch, pages))
        tables.append(GraphTable("swa_out_cache_loc", INT64, (shape.batch,)))
    tables.append(GraphTable("cache_seqlens", INT32, (shape.batch,)))
    return tuple(tables)


def _table(name: str, rows: int, columns: int) -> GraphTable:
    return GraphTable(name, INT32, (rows, columns))


def _pages(tokens: int, page_size: int) -> int:
    return -(-tokens // page_size)
