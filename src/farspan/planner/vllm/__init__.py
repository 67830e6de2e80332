"""vLLM's memory model, by version."""

from farspan.planner.vllm.plan import outline_vllm, plan_vllm
from farspan.planner.vllm.versions import KNOWN_VERSIONS

__all__ = ["KNOWN_VERSIONS", "outline_vllm", "plan_vllm"]
