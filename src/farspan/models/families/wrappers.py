"""Models that join encoders to a language model: where their configs keep each, one row an architecture."""

from __future__ import annotations

from typing import NamedTuple


class Wrapper(NamedTuple):
    """One architecture around a decoder.

    Args:
        text: The decoder's architecture; empty where `text_config` says.
        sections: Fields the decoder's config may be under, the first present counts; the top of the config else.
        prefix: What checkpoints put before the decoder's names.
        joins: The projector, by its name in `farspan.models.families.towers`; empty where the encoder has it.
        tower: The encoder's kind where its config names none, or another.
        audio: The audio encoder's projector, by its name there; empty without one.
        tied: Whether the head is the embedding where the config does not say.
        published: Parameters of encoders that no field describes, as published; 0 where fields do.
        note: What a reader of any figure must know.
    """

    text: str = ""
    sections: tuple[str, ...] = ("text_config", "llm_config", "language_config")
    prefix: str = "model.language_model."
    joins: str = ""
    tower: str = ""
    audio: str = ""
    tied: bool | None = None
    published: int = 0
    note: str = ""


_LLAVA = Wrapper(prefix="language_model.model.", joins="llava")
_QWEN2_VL = Wrapper("Qwen2ForCausalLM", tower="qwen2_vl_vision")
_THINKER = ("thinker_config",)
WRAPPERS: dict[str, Wrapper] = {
    "LlavaForConditionalGeneration": _LLAVA,
    "LlavaNextForConditionalGeneration": _LLAVA,
    "LlavaNextVideoForConditionalGeneration": _LLAVA,
    "LlavaOnevisionForConditionalGeneration": _LLAVA,
    "Mistral3ForConditionalGeneration": Wrapper(joins="mistral3", prefix="model.language_model."),
    "MistralLarge4ForConditionalGeneration": Wrapper("MistralLarge3ForCausalLM", joins="mistral3"),
    "PixtralForConditionalGeneration": _LLAVA,
    "Gemma3ForConditionalGeneration": Wrapper("Gemma3ForCausalLM", joins="gemma3", tied=True),
    "PaliGemmaForConditionalGeneration": Wrapper(joins="linear", tied=True),
    "Qwen2VLForConditionalGeneration": _QWEN2_VL,
    "Qwen2_5_VLForConditionalGeneration": Wrapper("Qwen2ForCausalLM", tower="qwen2_5_vl_vision"),
    "Qwen3VLForConditionalGeneration": Wrapper("Qwen3ForCausalLM", tower="qwen3_vl_vision"),
    "Qwen3VLMoeForConditionalGeneration": Wrapper("Qwen3MoeForCausalLM", tower="qwen3_vl_vision"),
    "Qwen3_5ForConditionalGeneration": Wrapper("Qwen3_5ForCausalLM", tower="qwen3_vl_vision"),
    "Qwen3_5MoeForConditionalGeneration": Wrapper("Qwen3_5MoeForCausalLM", tower="qwen3_vl_vision"),
    "Qwen4ExpForConditionalGeneration": Wrapper("Qwen4ExpForCausalLM", tower="qwen3_vl_vision"),
    "Qwen2_5OmniModel": Wrapper(
        "Qwen2ForCausalLM", _THINKER, "thinker.model.", tower="qwen2_5_vl_vision", audio="own"
    ),
    "Qwen2_5OmniForConditionalGeneration": Wrapper(
        "Qwen2ForCausalLM", _THINKER, "thinker.model.", tower="qwen2_5_vl_vision", audio="own"
    ),
    "Qwen2_5OmniThinkerForConditionalGeneration": Wrapper(
        "Qwen2ForCausalLM", tower="qwen2_5_vl_vision", audio="own"
    ),
    "Qwen3OmniMoeForConditionalGeneration": Wrapper(
        "Qwen3MoeForCausalLM", _THINKER, "thinker.model.", tower="qwen3_vl_vision", audio="own"
    ),
    "Qwen3OmniMoeThinkerForConditionalGeneration": Wrapper(
        "Qwen3MoeForCausalLM", tower="qwen3_vl_vision", audio="own"
    ),
    "Qwen2AudioForConditionalGeneration": Wrapper(audio="linear"),
    "VoxtralForConditionalGeneration": Wrapper(audio="stacked"),
    "Glm4vForConditionalGeneration": Wrapper("Glm4ForCausalLM", tower="glm4v_vision"),
    "Glm46VForConditionalGeneration": Wrapper(tower="glm4v_vision"),
    "Glm4vMoeForConditionalGeneration": Wrapper("Glm4MoeForCausalLM", tower="glm4v_moe_vision"),
    "GlmOcrForConditionalGeneration": Wrapper("Glm4ForCausalLM", tower="glm_ocr_vision"),
    "Glm5NextForConditionalGeneration": Wrapper("Glm5NextForCausalLM", tower="glm5_next_vision"),
    "InternVLForConditionalGeneration": Wrapper(joins="internvl"),
    "InternVLChatModel": Wrapper(prefix="language_model.model.", joins="internvl"),
    "InternS1ForConditionalGeneration": Wrapper(joins="internvl", tower="internvl_vision"),
    "Idefics3ForConditionalGeneration": Wrapper(
        "LlamaForCausalLM", joins="shuffled", tower="idefics3_vision"
    ),
    "SmolVLMForConditionalGeneration": Wrapper("LlamaForCausalLM", joins="shuffled", tower="idefics3_vision"),
    "Lfm2VlForConditionalGeneration": Wrapper(joins="unshuffled"),
    "Step3p7ForConditionalGeneration": Wrapper("Step3p5ForCausalLM", tower="step3p5_vision"),
    "MiniMaxM3SparseForConditionalGeneration": Wrapper(
        "MiniMaxM3ForCausalLM", prefix="language_model.model.", tower="minimax_m3_vl_vision"
    ),
    "KimiVLForConditionalGeneration": Wrapper(
        "DeepseekV3ForCausalLM", prefix="language_model.model.", tower="moonvit"
    ),
    "KimiK25ForConditionalGeneration": Wrapper(
        "DeepseekV3ForCausalLM", prefix="language_model.model.", tower="kimi_k25_vision"
    ),
    "Cohere2VisionForConditionalGeneration": Wrapper(joins="cohere", tied=True),
    "Ernie4_5_VLMoeForConditionalGeneration": Wrapper(
        "Ernie4_5_VLMoeForCausalLM", prefix="model.", tower="ernie4_5_vl_moe_vision"
    ),
    "Exaone4_5_ForConditionalGeneration": Wrapper("Exaone4ForCausalLM", tower="exaone4_5_vision"),
    "AriaForConditionalGeneration": Wrapper("AriaTextForCausalLM", joins="llava"),
    "Gemma3nForConditionalGeneration": Wrapper(
        "Gemma3nForCausalLM",
        tied=True,
        published=1_000_000_000,
        note="the encoders are counted as published (about 300M vision, 700M audio): no field describes them",
    ),
}

# What `text_config.model_type` means.
TEXT_TYPES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "mistral4": "Mistral4ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "glm4v_text": "Glm4ForCausalLM",
    "glm4v_moe_text": "Glm4MoeForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
    "seed_oss": "SeedOssForCausalLM",
}
# transformers' defaults of decoders whose configs are saved as differences from them, inside a wrapper's.
TEXT_DEFAULTS: dict[str, dict[str, object]] = {
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    "mistral": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "gemma3_text": {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "gemma": {"max_position_embeddings": 8192, "head_dim": 256},
    "qwen2": {"max_position_embeddings": 32768},
}
ENCODER_DEFAULTS: dict[str, dict[str, object]] = {
    "clip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "image_size": 224,
        "patch_size": 32,
    },
    "siglip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "image_size": 224,
        "patch_size": 16,
    },
    "qwen2_vl_vision": {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "in_channels": 3,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "qwen2_5_vl_vision": {"depth": 32, "in_channels": 3, "spatial_merge_size": 2, "temporal_patch_size": 2},
}
