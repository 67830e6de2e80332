"""Runs inside an engine's own Python: answers with what vLLM's planning code makes of given layers.

One JSON object a line in, one out. Started by tests/engines/vllm/vllm_engine.py, never imported by farspan.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from types import SimpleNamespace
from typing import Any

# vLLM logs to stdout, which is ours for answers.
ANSWERS = sys.stdout
sys.stdout = sys.stderr

import torch  # noqa: E402

vllm = importlib.import_module("vllm")
interface = importlib.import_module("vllm.v1.kv_cache_interface")
utils = importlib.import_module("vllm.v1.core.kv_cache_utils")
try:
    planning = importlib.import_module("vllm.v1.core.kv_cache_planning")
except ImportError:
    planning = utils

DTYPES = {1: torch.uint8, 2: torch.bfloat16, 4: torch.float32}


class Speechless:
    """A config whose unset fields are None: what this code asks for is set, nothing else matters."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def build_spec(given: dict[str, Any]) -> Any:
    """One KVCacheSpec of this vLLM from the fields of farspan's KvSpec."""
    kind = given["kind"]
    if kind == "state":
        return make(
            interface.MambaSpec,
            block_size=given["block_size"],
            shapes=((given["state_bytes"] // 2,),),
            dtypes=(torch.bfloat16,),
            page_size_padded=given["page_padded"],
        )
    fields: dict[str, Any] = {
        "block_size": given["block_size"],
        "num_kv_heads": given["num_kv_heads"],
        "head_size": given["head_size"],
        "dtype": DTYPES[given["value_bytes"]],
    }
    if kind == "mla":
        fields["cache_dtype_str"] = given["cache_dtype"] or None
        if given["entry_bytes"] and "state_content_bytes" in names(interface.MLAAttentionSpec):
            fields["state_content_bytes"] = given["entry_bytes"]
        return make(interface.MLAAttentionSpec, **fields)
    fields["head_size_v"] = given["head_size_v"]
    if kind == "full":
        return make(interface.FullAttentionSpec, **fields)
    if kind == "chunked_local":
        return make(interface.ChunkedLocalAttentionSpec, attention_chunk_size=given["window"], **fields)
    return make(interface.SlidingWindowSpec, sliding_window=given["window"], **fields)


def names(cls: type) -> set[str]:
    """Fields of a spec class in this version."""
    return {field.name for field in dataclasses.fields(cls) if field.init}


def make(cls: type, **fields: Any) -> Any:
    """An instance from the fields this version has; a field it lacks must be the default it assumes."""
    known = names(cls)
    if "head_size_v" in fields and "head_size_v" not in known:
        assert fields["head_size_v"] == fields["head_size"], f"{cls.__name__} has no value head size"
    if fields.get("page_size_padded") is not None:
        assert "page_size_padded" in known
    return cls(**{name: value for name, value in fields.items() if name in known})


def build_config(given: dict[str, Any]) -> Any:
    """The parts of a VllmConfig that planning reads."""
    max_batches = given["in_flight"] // given["max_num_batched_tokens"]
    cache = Speechless(
        mamba_cache_mode="none",
        num_gpu_blocks_override=None,
        block_size=16,
        kv_cache_layout="LBNHC",
        prefix_cache_retention_interval=None,
    )
    if hasattr(interface, "KVCacheLayout"):
        layout = interface.KVCacheLayout["LBNHC"]
        cache.get_resolved_kv_cache_layout = lambda: layout
    return SimpleNamespace(
        model_config=SimpleNamespace(
            max_model_len=given["max_model_len"],
            original_max_model_len=given["max_model_len"],
            hf_config=SimpleNamespace(model_type="any"),
            supports_kv_cache_grouping=False,
        ),
        scheduler_config=SimpleNamespace(
            max_num_batched_tokens=given["max_num_batched_tokens"],
            disable_hybrid_kv_cache_manager=not given["hybrid"],
        ),
        parallel_config=SimpleNamespace(
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            tensor_parallel_size=1,
            pipeline_parallel_size=1,
        ),
        cache_config=cache,
        attention_config=Speechless(hisparse_config=None),
        device_config=SimpleNamespace(device_type="cuda"),
        kv_transfer_config=None,
        speculative_config=None,
        max_concurrent_batches=max_batches,
        max_in_flight_tokens=given["in_flight"],
        num_prefill_lookahead_tokens=0,
        num_speculative_tokens=0,
    )


def kv_cache_config(config: Any, specs: dict[str, Any], available: int) -> Any:
    """get_kv_cache_configs of this version, for one rank."""
    if planning is utils:
        return planning.get_kv_cache_configs(config, [dict(specs)], [available])[0]
    groups = planning.get_global_kv_cache_groups(config, [dict(specs)])
    return planning.get_kv_cache_configs(config, [dict(specs)], [available], groups)[0]


def printed_tokens(config: Any, result: Any) -> int:
    """The N of "GPU KV cache size: N tokens"."""
    if hasattr(utils, "get_kv_cache_capacity"):
        return int(utils.get_kv_cache_capacity(config, result)[0])
    smallest = min(group.kv_cache_spec.block_size for group in result.kv_cache_groups)
    return int(result.num_blocks // len(result.kv_cache_groups) * smallest)


def estimate(config: Any, specs: dict[str, Any], available: int, error: Exception) -> int | None:
    """The estimated maximum model length in the engine's own message; 0 when it names none."""
    text = str(error)
    mark = "the estimated maximum model length is "
    if "is larger than the available KV cache memory" not in " ".join(text.split()) and mark not in text:
        return None
    return int(text.split(mark)[1].split(".")[0].split()[0]) if mark in text else 0


def answer(given: dict[str, Any]) -> dict[str, Any]:
    """What vLLM makes of one question."""
    config = build_config(given)
    specs = {name: build_spec(spec) for name, spec in given["layers"].items()}
    try:
        result = kv_cache_config(config, specs, given["available"])
    except (ValueError, NotImplementedError, AssertionError) as error:
        return {
            "starts": False,
            "error": f"{type(error).__name__}: {error}",
            "estimated_max_model_len": estimate(config, specs, given["available"], error),
        }
    return {
        "starts": True,
        "groups": [list(group.layer_names) for group in result.kv_cache_groups],
        "block_sizes": [group.kv_cache_spec.block_size for group in result.kv_cache_groups],
        "pages": [group.kv_cache_spec.page_size_bytes for group in result.kv_cache_groups],
        "num_blocks": result.num_blocks,
        "concurrency": utils.get_max_concurrency_for_kv_cache_config(config, result),
        "printed_tokens": printed_tokens(config, result),
    }


def main() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
