"""What --max-model-len reserves outside the KV budget: a row for every request in every block table."""

from __future__ import annotations

import math

from farspan.engines.vllm.kv_groups import KvGroup
from farspan.engines.vllm.kv_spec import SpecKind, ceil_div
from farspan.engines.vllm.pool import VllmKvLayout

ENTRY_BYTES = 4  # int32
_ROW_ALIGNMENT = 128  # tokens


def row_blocks(group: KvGroup, max_model_len: int, *, aligned: bool) -> int:
    """Entries of one row of a group's block table: windowed layers have full rows too."""
    if group.spec.kind is SpecKind.STATE and not group.spec.state_positions:
        return group.spec.state_blocks or 1
    blocks = ceil_div(max_model_len, group.spec.block_size)
    if not aligned or group.spec.kind is SpecKind.STATE:
        return blocks
    step = _ROW_ALIGNMENT // math.gcd(_ROW_ALIGNMENT, group.spec.block_size)
    return ceil_div(blocks, step) * step


def table_bytes(layout: VllmKvLayout, max_model_len: int, requests: int, *, second_runner: bool) -> int:
    """Bytes of all block tables on the GPU; the second runner keeps a copy for the forward pass."""
    aligned = second_runner or layout.rules.aligns_tables
    entries = 0
    for group, count in layout.alike:
        entries += count * row_blocks(group, max_model_len, aligned=aligned)
    return entries * requests * ENTRY_BYTES * (2 if second_runner else 1)
