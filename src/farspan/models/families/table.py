"""The families' declarations: one row an architecture, by the name its config.json carries.

Layouts follow transformers 5.23 (modeling files of the same name) and, where it has no class, vllm 0.33.0's models of
the same name. A row says only where a family differs from the plainest decoder: grouped-query attention with RoPE, a
gated MLP, two RMS norms a layer, an output head of its own.
"""

from __future__ import annotations

from farspan.models.families.declaration import Family
from farspan.models.families.dense_rows import DENSE
from farspan.models.families.sparse_rows import SPARSE

FAMILIES: dict[str, Family] = {**DENSE, **SPARSE}
