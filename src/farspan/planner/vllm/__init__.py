"""vLLM's memory model, by version."""

from farspan.planner.vllm.plan import plan_vllm
from farspan.planner.vllm.versions import KNOWN_VERSIONS

__all__ = ["KNOWN_VERSIONS", "plan_vllm"]
