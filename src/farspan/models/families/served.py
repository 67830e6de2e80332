"""Architectures that vLLM or SGLang serve, or served once, and that have no row of their own.

They are read by the usual names of fields, and the plan says so.

The names are those of the engines' registries (vllm 0.33.0 model_executor/models/registry.py, with what it names as
supported before; sglang 0.5.23 srt/models: EntryClass), without embedding, reward, draft and speech-to-text models.
"""

from __future__ import annotations

SERVED = frozenset(
    """
    AliceAIForCausalLM ArcticForCausalLM AudioFlamingo3ForConditionalGeneration
    AyaVisionForConditionalGeneration BagelForConditionalGeneration
    BailingMM2NativeForConditionalGeneration BailingMMNativeForConditionalGeneration
    BailingMoeV2_5ForCausalLM BailingMoeV3ForCausalLM
    BailingMoeV3VLForConditionalGeneration BeeForConditionalGeneration Blip2ForConditionalGeneration
    ChameleonForConditionalGeneration CohereCompassForConditionalGeneration
    Cosmos3EdgeForConditionalGeneration Cosmos3ForConditionalGeneration DeepseekOCR2ForCausalLM
    DeepseekOCRForCausalLM DeepseekV41ForCausalLM DeepseekV4ForConditionalGeneration
    DeepseekVL2ForCausalLM DeepseekVLV2ForCausalLM DiffLlamaForCausalLM DogeForCausalLM
    DomynEdgeForCausalLM DoryForCausalLM Dots3NoteForCausalLM DotsOCRForCausalLM DotsVLMForCausalLM
    Ernie4_5_VLMoeForConditionalGeneration Exaone4_5_ForConditionalGeneration
    Fairseq2LlamaForCausalLM FunAudioChatForConditionalGeneration FuyuForCausalLM GLM4VForCausalLM
    GPTNeoForCausalLM Gemma4UnifiedForConditionalGeneration GigaChat35ForCausalLM
    Glm4MoeVForConditionalGeneration Granite4VisionForConditionalGeneration
    GraniteSpeechForConditionalGeneration GraniteSpeechPlusForConditionalGeneration Grok1ForCausalLM
    Grok1ModelForCausalLM H2OVLChatModel HCXVisionForCausalLM HCXVisionV2ForCausalLM HfMoondream
    HrmTextForCausalLM IQuestLoopCoderForCausalLM IQuestQ1ForCausalLM InklingForCausalLM
    InklingForConditionalGeneration InternLM2VEForCausalLM InternS1ProForConditionalGeneration
    InternS2MobiusForConditionalGeneration InternS2PreviewForConditionalGeneration
    IsaacForConditionalGeneration JAISLMHeadModel JetMoeForCausalLM JetNemotronForCausalLM
    JetVLMForConditionalGeneration K2HorizonForCausalLM KananaVForConditionalGeneration
    KeyeForConditionalGeneration KeyeVL1_5ForConditionalGeneration
    LightOnOCRForConditionalGeneration Llama_Nemotron_Nano_VL LlavaLlamaForCausalLM
    LlavaMistralForCausalLM LlavaOnevision2ForConditionalGeneration LlavaQwenForCausalLM
    LlavaVidForCausalLM LocateAnythingForConditionalGeneration LongcatFlashNgramForCausalLM
    MantisForConditionalGeneration MiDashengLMModel MiMoV2ForCausalLM MiMoV2OmniForCausalLM MiniCPMO
    MiniCPMOcrForConditionalGeneration MiniCPMSALAForCausalLM MiniCPMV
    MiniCPMV4_6ForConditionalGeneration MiniCPMV4_7ForConditionalGeneration
    MiniMaxVL01ForConditionalGeneration MllamaForConditionalGeneration Molmo2ForConditionalGeneration
    MolmoForCausalLM Moondream3ForCausalLM MoonshotKimiaForCausalLM MossAudioModel
    MossVLForConditionalGeneration MotifForCausalLM MuseGlimmerForCausalLM
    MuseGlimmerForConditionalGeneration MuseSparkForConditionalGeneration
    MusicFlamingoForConditionalGeneration NVILAForConditionalGeneration
    NVILALiteForConditionalGeneration NVLM_D NanbeigeForCausalLM NemotronHPuzzleForCausalLM
    NemotronH_Nano_Omni_Reasoning_V3 NemotronH_Nano_VL_V2 NemotronH_Omni_Reasoning_V3
    NemotronH_Super_Omni_Reasoning_V3 OpenCUAForConditionalGeneration
    OpenPanguVLForConditionalGeneration OuroForCausalLM Ovis Ovis2_5 Ovis2_6ForCausalLM
    Ovis2_6_MoeForCausalLM POINTSV15ChatModel PaddleOCRVLForConditionalGeneration
    PanguEmbeddedForCausalLM PanguProMoEV2ForCausalLM PanguUltraMoEForCausalLM Param2MoEForCausalLM
    Phi3SmallForCausalLM Phi3VForCausalLM Phi4FlashForCausalLM Phi4ForCausalLMV Phi4MMForCausalLM
    Phi4MultimodalForCausalLM Plamo2ForCausalLM Plamo3ForCausalLM QianfanOCRForConditionalGeneration
    QuantMixtralForCausalLM QwenVLForConditionalGeneration RForConditionalGeneration
    RecurrentGemmaForCausalLM SDARForCausalLM SDARMoeForCausalLM Sarashina2VisionForCausalLM
    SarvamMLAForCausalLM SarvamMoEForCausalLM SkyworkR1VChatModel Spark2_5ForCausalLM Step1ForCausalLM
    Step3TextForCausalLM Step3VLForConditionalGeneration Step5ForCausalLM Step5ForConditionalGeneration
    StepVLForConditionalGeneration Tarsier2ForConditionalGeneration TarsierForConditionalGeneration
    TeleChat2ForCausalLM TeleChatForCausalLM UltravoxModel UnlimitedOCRForCausalLM XllmForCausalLM
    XverseMoeForCausalLM YiVLForCausalLM Zamba2ForCausalLM ZambaForCausalLM ZayaForCausalLM
    """.split()  # noqa: SIM905
)
