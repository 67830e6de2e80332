"""What vLLM once served and does not serve any more."""

from __future__ import annotations

from farspan.planner.versions import version_key

# The last version that serves each (vllm 0.33.0 model_executor/models/registry.py: _PREVIOUSLY_SUPPORTED_MODELS).
_LAST_VERSIONS = {
    "AquilaForCausalLM": "0.24.0",
    "AquilaModel": "0.24.0",
    "ArcticForCausalLM": "0.28.0",
    "AyaVisionForConditionalGeneration": "0.24.0",
    "BaiChuanForCausalLM": "0.23.0",
    "BaichuanForCausalLM": "0.23.0",
    "BambaForCausalLM": "0.23.0",
    "ChameleonForConditionalGeneration": "0.28.0",
    "Dots1ForCausalLM": "0.23.0",
    "Fairseq2LlamaForCausalLM": "0.28.0",
    "FuyuForCausalLM": "0.25.0",
    "Grok1ForCausalLM": "0.24.0",
    "Grok1ModelForCausalLM": "0.24.0",
    "HCXVisionForCausalLM": "0.28.0",
    "InternLM2VEForCausalLM": "0.23.0",
    "InternLMForCausalLM": "0.23.0",
    "JAISLMHeadModel": "0.22.0",
    "MPTForCausalLM": "0.28.0",
    "MantisForConditionalGeneration": "0.24.0",
    "MiniMaxForCausalLM": "0.23.0",
    "MiniMaxM1ForCausalLM": "0.23.0",
    "MiniMaxText01ForCausalLM": "0.23.0",
    "MiniMaxVL01ForConditionalGeneration": "0.23.0",
    "MllamaForConditionalGeneration": "0.10.2",
    "MotifForCausalLM": "0.10.2",
    "MptForCausalLM": "0.28.0",
    "MusicFlamingoForConditionalGeneration": "0.24.0",
    "OuroForCausalLM": "0.26.0",
    "PersimmonForCausalLM": "0.25.0",
    "Phi3SmallForCausalLM": "0.9.2",
    "Phi4FlashForCausalLM": "0.10.2",
    "Phi4MultimodalForCausalLM": "0.12.0",
    "Plamo2ForCausalLM": "0.26.0",
    "QWenLMHeadModel": "0.23.0",
    "QwenVLForConditionalGeneration": "0.23.0",
    "RWForCausalLM": "0.28.0",
    "StableLMEpochForCausalLM": "0.28.0",
    "Tarsier2ForConditionalGeneration": "0.23.0",
    "TarsierForConditionalGeneration": "0.24.0",
    "TeleChatForCausalLM": "0.25.0",
    "XverseForCausalLM": "0.23.0",
}
# The first known version whose registry of quantizations has no loader for these (vllm 0.33.0 layers/quantization).
_LOADERS_GONE = {"bitsandbytes": "0.33.0"}


def last_version_with(architecture: str, version: str) -> str:
    """The last version that serves `architecture`, if `version` is newer than it; else empty."""
    last = _LAST_VERSIONS.get(architecture, "")
    return last if last and version_key(version) > version_key(last) else ""


def has_no_loader(method: str, version: str) -> bool:
    """Whether `version` cannot load checkpoints quantized with `method`."""
    gone = _LOADERS_GONE.get(method, "")
    return bool(gone) and version_key(version) >= version_key(gone)
