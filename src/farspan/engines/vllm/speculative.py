"""Speculative decoding: which method a configuration means."""

from __future__ import annotations

from collections.abc import Mapping

DRAFT_MODEL = "draft_model"  # a whole model that drafts
EAGLE, EAGLE_3 = "eagle", "eagle3"
_EAGLE_METHODS = (EAGLE, EAGLE_3, "mtp", "dflash", "dspark")


def speculative_method(given: Mapping[str, object]) -> str:
    """The method of --speculative-config; told from the draft's name where it is not given, as vLLM tells it
    (config/speculative.py: __post_init__). Empty without speculative decoding."""
    if not given:
        return ""
    named, model = given.get("method"), str(given.get("model", ""))
    if named is not None or not model:
        return str(named) if named is not None else "?"
    if model.strip("[]") == "ngram":
        return "ngram"
    lower = model.lower()
    return EAGLE if "eagle-" in lower else EAGLE_3 if "eagle3" in lower else DRAFT_MODEL


def uses_eagle(method: str) -> bool:
    """Whether a speculative method drafts with a model's hidden states (vllm: use_eagle)."""
    return method in _EAGLE_METHODS
