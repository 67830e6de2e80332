"""Whether vLLM's hybrid KV cache manager is on, and who turned it off."""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.vllm.flags import CHUNKED_HYBRID_ENV, VllmFlags
from farspan.engines.vllm.speculative import uses_eagle
from farspan.engines.vllm.versions import VllmRules
from farspan.models.spec import AttentionKind, ModelSpec

# Connectors that subclass SupportsHMA in 0.24.0 and later; MultiConnector depends on its children.
_HYBRID_CONNECTORS = frozenset(
    {
        "OffloadingConnector",
        "SimpleCPUOffloadConnector",
        "NixlConnector",
        "NixlPullConnector",
        "NixlPushConnector",
        "MooncakeConnector",
        "MooncakeStoreConnector",
        "DecodeBenchConnector",
        "ExampleHiddenStatesConnector",
    }
)


class HybridState(NamedTuple):
    """Whether hybrid groups are on.

    Args:
        on: Whether they are.
        off_because: Who turned them off, in words; empty when on.
        env_decides: Whether setting the environment variable would turn them on.
        refusal: Why vLLM does not start at all, in one sentence; else empty.
    """

    on: bool
    off_because: str = ""
    env_decides: bool = False
    refusal: str = ""


def hybrid_state(
    model: ModelSpec, given: VllmFlags, rules: VllmRules, *, allow_env: bool = False
) -> HybridState:
    """Mirrors vllm config/vllm.py: VllmConfig.__post_init__ (0.12.0 line 885, 0.33.0 line 2223).

    Args:
        model: The model.
        given: Flags as given.
        rules: The version's rules.
        allow_env: Treat the environment variable as set to 1 when it was not given.
    """
    if given.hybrid is False:
        return HybridState(on=False, off_because="--disable-hybrid-kv-cache-manager")
    env = given.chunked_hybrid_env
    if env is None:
        env = rules.chunked_hybrid_default or allow_env
    forced = _forced_off(model, given, rules, chunked_allowed=env)
    if forced and rules.hybrid_preference and given.hybrid:
        return HybridState(
            on=False,
            off_because=forced,
            refusal=f"--no-disable-hybrid-kv-cache-manager was given, but {forced} turns hybrid groups off",
        )
    if forced:
        only_env = not _forced_off(model, given, rules, chunked_allowed=True)
        return HybridState(
            on=False, off_because=forced, env_decides=only_env and given.chunked_hybrid_env is None
        )
    if given.connector and _connector_disables(given, rules):
        return HybridState(on=False, off_because=f"--kv-transfer-config ({given.connector})")
    return HybridState(on=True)


def _forced_off(model: ModelSpec, given: VllmFlags, rules: VllmRules, *, chunked_allowed: bool) -> str:
    """What turns hybrid groups off whatever the flag says; empty for nothing."""
    if given.kv_events and rules.events_disable_hybrid:
        return "--kv-events-config"
    if not any(True for _ in model.layers_of(AttentionKind.CHUNKED_LOCAL)):
        return ""
    if uses_eagle(given.speculative):
        return "speculative decoding with chunked local attention"
    return "" if chunked_allowed else f"{CHUNKED_HYBRID_ENV}=0, the default of {rules.version}"


def _connector_disables(given: VllmFlags, rules: VllmRules) -> bool:
    if rules.hybrid_preference and given.hybrid:
        return False
    return not rules.connector_support_checked or given.connector not in _HYBRID_CONNECTORS
