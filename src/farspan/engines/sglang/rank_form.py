"""How SGLang reads the config of one rank of a model, alone."""

from __future__ import annotations

from farspan.models.shard.config_form import ConfigForm

# Decoders whose attention takes a head to be the hidden size over the number of heads, whatever `head_dim` says
# (sglang 0.5.6.post2 to 0.5.23 srt/models: each one's attention class).
_FIXED_HEADS = frozenset(
    {
        "BaichuanForCausalLM",
        "ChatGLMModel",
        "Cohere2ForCausalLM",
        "CohereForCausalLM",
        "DbrxForCausalLM",
        "DeepseekForCausalLM",
        "GPT2LMHeadModel",
        "GPTBigCodeForCausalLM",
        "GPTJForCausalLM",
        "GraniteMoeForCausalLM",
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeSharedForCausalLM",
        "IQuestLoopCoderForCausalLM",
        "InternLM2ForCausalLM",
        "Lfm2ForCausalLM",
        "Lfm2MoeForCausalLM",
        "MiniCPMForCausalLM",
        "MixtralForCausalLM",
        "OPTForCausalLM",
        "Olmo2ForCausalLM",
        "OlmoForCausalLM",
        "OlmoeForCausalLM",
        "OrionForCausalLM",
        "PersimmonForCausalLM",
        "QWenLMHeadModel",
        "Qwen2MoeForCausalLM",
        "StableLmForCausalLM",
        "Starcoder2ForCausalLM",
        "XverseMoeForCausalLM",
    }
)


def form_of(architecture: str) -> ConfigForm:
    """The form of the rank of a model of that architecture."""
    from farspan.engines.sglang.defaults import TEXT_ONLY_BY_DEFAULT

    if architecture == "KimiK3ForConditionalGeneration":
        return ConfigForm("SGLang", decoder="KimiK3LinearForCausalLM", fixed_head_sizes=_FIXED_HEADS)
    return ConfigForm(
        "SGLang", keeps_wrapper=architecture in TEXT_ONLY_BY_DEFAULT, fixed_head_sizes=_FIXED_HEADS
    )
