"""What --max-model-len reserves outside the KV budget: a row for every request in every block table."""

from __future__ import annotations

import math

from farspan.engines.vllm.batch import BatchLimits, on_second_runner
from farspan.engines.vllm.kv_groups import KvGroup
from farspan.engines.vllm.kv_spec import SpecKind, ceil_div
from farspan.engines.vllm.pool import VllmKvLayout
from farspan.engines.vllm.versions import VllmRules
from farspan.models.spec import ModelSpec
from farspan.planner.ledger import Allocation, Basis, LedgerPhase

_ENTRY_BYTES = 4  # int32
_ROW_ALIGNMENT = 128  # tokens
_V1_SOURCE = "vllm {version} v1/worker/block_table.py: MultiGroupBlockTable"
_V2_SOURCE = "vllm {version} v1/worker/gpu/block_table.py: BlockTables"


def row_blocks(group: KvGroup, max_model_len: int, *, aligned: bool) -> int:
    """Entries of one row of a group's block table: windowed layers have full rows too."""
    if group.spec.kind is SpecKind.STATE and group.spec.state_blocks == 1:
        return 1
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
    return entries * requests * _ENTRY_BYTES * (2 if second_runner else 1)


def table_lines(
    model: ModelSpec, layout: VllmKvLayout, max_model_len: int, limits: BatchLimits, rules: VllmRules
) -> tuple[Allocation, ...]:
    """The block tables on the GPU, and what the host keeps for every possible token."""
    second = on_second_runner(model, rules)
    on_gpu = table_bytes(layout, max_model_len, limits.requests, second_runner=second)
    source = (_V2_SOURCE if second else _V1_SOURCE).format(version=rules.version)
    rows = " + ".join(
        f"{row_blocks(group, max_model_len, aligned=second or rules.aligns_tables):,}"
        for group in layout.groups
    )
    copies = " x 2 copies" if second else ""
    lines = [
        Allocation(
            name="block tables",
            bytes=on_gpu,
            when=LedgerPhase.POOL,
            grows_with="--max-num-seqs x --max-model-len, and KV groups",
            formula=f"{limits.requests} requests x ({rows}) blocks x 4 B{copies}",
            source=source,
            basis=Basis.MIRRORED,
        )
    ]
    if second:
        lines.append(
            Allocation(
                name="token ids of every request (pinned host memory)",
                bytes=limits.requests * max_model_len * _ENTRY_BYTES,
                when=LedgerPhase.LOAD,
                grows_with="--max-num-seqs x --max-model-len",
                formula=f"{limits.requests} requests x {max_model_len:,} tokens x 4 B",
                source=f"vllm {rules.version} v1/worker/gpu/states.py: RequestState",
                basis=Basis.MIRRORED,
                on_host=True,
            )
        )
    else:
        lines += [
            Allocation(
                name="block tables (pinned host copy)",
                bytes=on_gpu,
                when=LedgerPhase.POOL,
                grows_with="--max-num-seqs x --max-model-len, and KV groups",
                formula="as much as on the GPU",
                source=source,
                basis=Basis.MIRRORED,
                on_host=True,
            ),
            Allocation(
                name="token ids of every request (host, backed as prompts arrive)",
                bytes=limits.requests * max_model_len * (_ENTRY_BYTES + 1),
                when=LedgerPhase.LOAD,
                grows_with="--max-num-seqs x --max-model-len",
                formula=f"{limits.requests} requests x {max_model_len:,} tokens x (4 + 1) B",
                source=f"vllm {rules.version} v1/worker/gpu_input_batch.py: InputBatch",
                basis=Basis.MIRRORED,
                on_host=True,
            ),
        ]
    return tuple(lines)
