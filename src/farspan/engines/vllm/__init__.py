"""vLLM's memory model, by version."""

from farspan.engines.vllm.plan import outline_vllm, plan_vllm
from farspan.engines.vllm.versions import KNOWN_VERSIONS

__all__ = ["KNOWN_VERSIONS", "outline_vllm", "plan_vllm"]
