"""How vLLM reads the config of one rank of a model, alone."""

from __future__ import annotations

from farspan.engines.vllm.versions import VllmRules, rules_for
from farspan.models.shard.config_form import ConfigForm
from farspan.planner.versions import released_version, version_key

# Decoders whose attention takes a head to be the hidden size over the number of heads, whatever `head_dim` says, and
# the last version that does (vllm 0.24.0 to 0.33.0 model_executor/models: each one's attention class); empty: all.
_FIXED_HEADS = {
    "ArcticForCausalLM": "0.28.0",
    "BaiChuanForCausalLM": "0.24.0",
    "BaichuanForCausalLM": "0.24.0",
    "BloomForCausalLM": "",
    "ChatGLMModel": "",
    "Cohere2ForCausalLM": "0.28.0",
    "CohereForCausalLM": "0.28.0",
    "DbrxForCausalLM": "",
    "DeepseekForCausalLM": "",
    "FalconForCausalLM": "",
    "GPT2LMHeadModel": "",
    "GPTBigCodeForCausalLM": "0.24.0",
    "GPTJForCausalLM": "",
    "GraniteMoeForCausalLM": "",
    "GraniteMoeHybridForCausalLM": "",
    "IQuestLoopCoderForCausalLM": "",
    "InternLM2ForCausalLM": "",
    "JambaForCausalLM": "",
    "Lfm2ForCausalLM": "",
    "Lfm2MoeForCausalLM": "",
    "MPTForCausalLM": "0.28.0",
    "MiniCPMForCausalLM": "",
    "MptForCausalLM": "0.28.0",
    "OPTForCausalLM": "",
    "Olmo2ForCausalLM": "0.25.1",
    "Olmo3ForCausalLM": "0.28.0",
    "OlmoForCausalLM": "0.24.0",
    "OlmoHybridForCausalLM": "",
    "OlmoeForCausalLM": "",
    "OrionForCausalLM": "",
    "OuroForCausalLM": "0.26.0",
    "PersimmonForCausalLM": "0.24.0",
    "Qwen2ForCausalLM": "",
    "Qwen2MoeForCausalLM": "",
    "StableLMEpochForCausalLM": "",
    "StableLmForCausalLM": "",
    "Starcoder2ForCausalLM": "0.24.0",
    "Step1ForCausalLM": "",
    "TeleChat2ForCausalLM": "",
}
# Decoders whose experts are padded, where the version pads them (vllm 0.28.0 models/kimi_k3/nvidia/model.py: KimiMoE).
_KIMI = ("KimiLinearForCausalLM", "KimiK3LinearForCausalLM", "KimiK3ForConditionalGeneration")
_KIMI_WIDTH = 256
# MiniMax M3's decoder is known only under the config of the whole (transformers_utils/configs/minimax_m3.py).
_MINIMAX_M3 = (
    "MiniMaxM3ForCausalLM",
    "MiniMaxM3SparseForCausalLM",
    "MiniMaxM3SparseForConditionalGeneration",
)


def least_expert_width(architecture: str, rules: VllmRules) -> int:
    """What a rank's share of an expert's width is padded to; 0 for nothing."""
    return _KIMI_WIDTH if rules.pads_kimi_experts and architecture in _KIMI else 0


def form_of(architecture: str, version: str) -> ConfigForm:
    """The form of the rank of a model of that architecture."""
    key = version_key(released_version(version)[0])
    fixed = frozenset(name for name, last in _FIXED_HEADS.items() if not last or key <= version_key(last))
    if architecture in _MINIMAX_M3:
        return ConfigForm("vLLM", model_type="minimax_m3_vl", nested=True, fixed_head_sizes=fixed)
    # vllm 0.33.0 models/kimi_k3/nvidia/model.py: KimiLinearForCausalLM is K3's decoder.
    decoder = "KimiLinearForCausalLM" if architecture == "KimiK3ForConditionalGeneration" else ""
    width = least_expert_width(architecture, rules_for(version)[0])
    return ConfigForm("vLLM", decoder=decoder, fixed_head_sizes=fixed, least_expert_width=width)
