"""How each family's config.json becomes a ModelSpec: one module a family, one table of architectures.

A family reads every field that shapes memory, says which fields cannot, and refuses the rest by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from farspan.errors import InputError
from farspan.models.families.config_fields import ConfigReader
from farspan.models.spec import ModelSpec

Reader = Callable[[ConfigReader, str], ModelSpec]

# architecture -> module of this package; the module's `read` does the work.
ARCHITECTURES = {
    "DeepseekV2ForCausalLM": "deepseek",
    "DeepseekV3ForCausalLM": "deepseek",
    "DeepseekV32ForCausalLM": "deepseek",
    "DeepseekV4ForCausalLM": "deepseek_v4",
    "Gemma4ForConditionalGeneration": "gemma4",
    "GlmMoeDsaForCausalLM": "deepseek",
    "GptOssForCausalLM": "gpt_oss",
    "KimiK25ForConditionalGeneration": "kimi",
    "KimiK3ForConditionalGeneration": "kimi_k3",
    "Llama4ForCausalLM": "llama4",
    "Llama4ForConditionalGeneration": "llama4",
    "LlamaForCausalLM": "llama",
    "MiMoV2FlashForCausalLM": "mimo",
    "MiniMaxM2ForCausalLM": "minimax",
    "MiniMaxM3ForCausalLM": "minimax",
    "MistralForCausalLM": "llama",
    "MixtralForCausalLM": "llama",
    "Qwen2ForCausalLM": "llama",
    "Qwen3ForCausalLM": "llama",
    "Qwen3MoeForCausalLM": "llama",
    "Qwen3_5ForConditionalGeneration": "qwen35",
    "Qwen3_5MoeForConditionalGeneration": "qwen35",
    "Step3p7FlashForCausalLM": "step",
}


def family_reader(architecture: str) -> Reader:
    """Return the function that reads configs of `architecture`.

    Raises:
        InputError: No family knows the architecture.
    """
    module = ARCHITECTURES.get(architecture)
    if module is None:
        raise InputError(
            f"architecture {architecture!r} is not one farspan knows",
            f"known are {', '.join(sorted(ARCHITECTURES))}",
        )
    return cast(Reader, importlib.import_module(f"{__name__}.{module}").read)
