"""Scout, one rank of it, and requests about them."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

from farspan.hardware.catalog import find_gpu
from farspan.models import catalog
from farspan.models.config import load_model, spec_from_config
from farspan.models.spec import KvDtype, ModelSpec
from farspan.planner.request import PlanRequest

H200 = find_gpu("H200")
GIB = 2**30


@lru_cache
def scout() -> ModelSpec:
    return load_model("llama-4-scout", allow_network=False)


@lru_cache
def one_rank() -> ModelSpec:
    """What one rank of Scout at TP 8 holds, as a model of its own without the vision tower."""
    entry = catalog.find("llama-4-scout")
    assert entry is not None
    config: dict[str, Any] = copy.deepcopy(dict(entry.config()))
    config.pop("vision_config", None)
    text = config.get("text_config", config)
    text.update(
        num_attention_heads=5,
        num_key_value_heads=1,
        intermediate_size=text["intermediate_size"] // 8,
        intermediate_size_mlp=text["intermediate_size_mlp"] // 8,
        vocab_size=25256,
    )
    return spec_from_config(config, "one rank of Scout")


def request(context: int, version: str, **changes: Any) -> PlanRequest:
    """A request for Scout on 8x H200."""
    fields: dict[str, Any] = {
        "model": scout(),
        "gpu": H200,
        "gpus": 8,
        "tp": 8,
        "context": context,
        "engine_version": version,
        "kv_dtype": KvDtype.AUTO,
    }
    return PlanRequest(**{**fields, **changes})
