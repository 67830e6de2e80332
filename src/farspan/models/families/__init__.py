"""How each family's config.json becomes a ModelSpec: declarations, one reader, and what is really different.

A family reads every field that shapes memory, says which fields cannot, and refuses the rest by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from farspan.models.families.config_fields import ConfigReader
from farspan.models.spec import ModelSpec

Reader = Callable[[ConfigReader, str], ModelSpec]

# Architectures that are code of their own: the module of this package whose `read` does the work.
OWN_READERS = {
    "DeepseekV4ForCausalLM": "deepseek_v4",
    "Gemma4ForCausalLM": "gemma4",
    "Gemma4ForConditionalGeneration": "gemma4",
    "KimiK3ForConditionalGeneration": "kimi_k3",
    "KimiK3LinearForCausalLM": "kimi_k3",
    "KimiLinearForCausalLM": "kimi_k3",
    "Llama4ForCausalLM": "llama4",
    "Llama4ForConditionalGeneration": "llama4",
    "MiMoV2FlashForCausalLM": "mimo",
    "MiniMaxM2ForCausalLM": "minimax",
    "MiniMaxM3ForCausalLM": "minimax",
    "MiniMaxM3SparseForCausalLM": "minimax",
}


def family_reader(architecture: str) -> Reader:
    """Return the function that reads configs of `architecture`: its own module's, or the tables'."""
    module = OWN_READERS.get(architecture, "model_reader")
    return cast(Reader, importlib.import_module(f"{__name__}.{module}").read)
