"""An FP8 KV cache without scaling factors: exactness over long contexts may suffer."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="fp8-kv-unscaled",
    severity=Severity.INFO,
    needles=("scaling factor",),
    pattern=re.compile(
        r"Using KV cache scaling factor 1\.0 for fp8_e4m3|Using FP8 KV cache but no scaling factors provided"
    ),
    explain=diagnose(
        "KV is kept in FP8 with a scale of 1.0, because the checkpoint has no scales. It halves the memory; recall "
        "over long contexts may suffer and should be measured.",
        "`farspan bench --url URL --contexts 1M --task needle` shows whether it does",
        "where it does: --kv-cache-dtype auto, or a checkpoint with KV scales",
        confidence=Confidence.CERTAIN,
    ),
    sources=("vllm model_executor/layers/quantization/kv_cache.py", "sglang 0.5.16, observed"),
)
