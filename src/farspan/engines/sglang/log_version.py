"""What a SGLang log tells of its version (it never prints it): the names of its arguments."""

from __future__ import annotations

from collections.abc import Container


def version_like(names: Container[str]) -> str:
    """The oldest planned version whose arguments look so; empty when the log does not print them.

    From the fields of ServerArgs: 0.5.6.post2 has `enable_flashinfer_autotune`, later ones
    `disable_flashinfer_autotune`; `hybrid_kvcache_ratio` goes with 0.5.10, `cuda_graph_max_bs` with 0.5.16.
    """
    if "model_path" not in names:
        return ""
    if "cuda_graph_max_bs_decode" in names or "enable_unified_memory" in names:
        return "0.5.16"
    if "disable_flashinfer_autotune" in names:
        return "0.5.7" if "hybrid_kvcache_ratio" in names else "0.5.10"
    return "0.5.6" if "hybrid_kvcache_ratio" in names else ""


def is_llama4(model: str) -> bool:
    """Whether the model is a Llama 4, by its name."""
    name = model.lower().replace("_", "-")
    return "llama-4" in name or "llama4" in name
