"""What vLLM keeps of one layer: its block, its page, and how many blocks one request may hold."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class SpecKind(StrEnum):
    """vLLM's KV cache spec classes."""

    FULL = "full"  # FullAttentionSpec
    MLA = "mla"  # MLAAttentionSpec, a FullAttentionSpec with one latent and no value
    CHUNKED_LOCAL = "chunked_local"  # ChunkedLocalAttentionSpec
    SLIDING_WINDOW = "sliding_window"  # SlidingWindowSpec
    STATE = "state"  # MambaSpec


FULL_KINDS = (SpecKind.FULL, SpecKind.MLA)


def ceil_div(numerator: int, denominator: int) -> int:
    """Smallest whole number not below the quotient."""
    return -(-numerator // denominator)


class KvSpec(NamedTuple):
    """One layer's KV cache on one rank (vllm v1/kv_cache_interface.py: KVCacheSpec and its subclasses).

    Args:
        kind: Which spec class.
        block_size: Tokens in a block.
        num_kv_heads: KV heads on this rank; 0 for STATE.
        head_size: Values of one key, or of one latent.
        head_size_v: Values of one value; 0 for MLA.
        value_bytes: Bytes of one cached value.
        window: Chunk (CHUNKED_LOCAL) or window (SLIDING_WINDOW) in tokens.
        entry_bytes: Bytes of one token when a packed layout fixes them (fp8_ds_mla: 656), else None.
        cache_dtype: MLA's cache dtype, which keeps unlike MLA layers apart; empty for an indexer's cache.
        page_padded: Bytes the page was padded to, or None.
        full_window: SLIDING_WINDOW layer treated as FULL: its window.
        full_chunk: CHUNKED_LOCAL layer treated as FULL: its chunk.
        state_bytes: STATE: bytes of one request's state.
        state_blocks: STATE: blocks one request holds; None for one a `block_size` tokens.
        state_positions: STATE: whether its block table has a place for every block of the sequence.
    """

    kind: SpecKind
    block_size: int
    num_kv_heads: int = 0
    head_size: int = 0
    head_size_v: int = 0
    value_bytes: int = 0
    window: int | None = None
    entry_bytes: int | None = None
    cache_dtype: str = ""
    page_padded: int | None = None
    full_window: int | None = None
    full_chunk: int | None = None
    state_bytes: int = 0
    state_blocks: int | None = None
    state_positions: bool = False

    @property
    def token_bytes(self) -> int:
        """Bytes of one token; 0 for STATE."""
        if self.entry_bytes is not None:
            return self.entry_bytes
        return self.num_kv_heads * (self.head_size + self.head_size_v) * self.value_bytes

    @property
    def page_bytes(self) -> int:
        """Bytes of one block of this layer (page_size_bytes)."""
        if self.page_padded is not None:
            return self.page_padded
        return self.state_bytes if self.kind is SpecKind.STATE else self.block_size * self.token_bytes

    def blocks(self, tokens: int, in_flight: int) -> int:
        """Blocks one request of `tokens` tokens may hold at once (max_memory_usage_bytes over the page).

        Args:
            tokens: Prompt and answer together.
            in_flight: Tokens scheduled and not yet settled: max_num_batched_tokens times batches in flight.
        """
        if self.kind in FULL_KINDS:
            return ceil_div(tokens, self.block_size)
        if self.kind is SpecKind.STATE:
            return self.state_blocks if self.state_blocks is not None else ceil_div(tokens, self.block_size)
        assert self.window is not None
        if self.kind is SpecKind.CHUNKED_LOCAL:
            return ceil_div(min(self.window + in_flight, tokens), self.block_size)
        # A window seldom starts at the edge of a block, hence one block more.
        return ceil_div(min(self.window - 1 + in_flight, tokens), self.block_size) + 1
