"""Parameters read from a config beside those of transformers' own class, on the meta device, family by family."""

from __future__ import annotations

import json
from typing import Any

import pytest

from farspan.models.config import spec_from_config
from farspan.models.weights import total_parameters

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# transformers' model type, the class, and sizes that differ from its defaults.
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("afmoe", "AfmoeForCausalLM", {"num_hidden_layers": 8}),
    ("apertus", "ApertusForCausalLM", {"num_hidden_layers": 3}),
    ("arcee", "ArceeForCausalLM", {"num_hidden_layers": 3}),
    ("bamba", "BambaForCausalLM", {"num_hidden_layers": 6, "attn_layer_indices": [2, 5]}),
    ("bloom", "BloomForCausalLM", {"n_layer": 3}),
    ("cohere", "CohereForCausalLM", {"num_hidden_layers": 2}),
    ("cohere2", "Cohere2ForCausalLM", {"num_hidden_layers": 4}),
    ("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", {"num_hidden_layers": 4}),
    ("exaone4", "Exaone4ForCausalLM", {"num_hidden_layers": 4}),
    ("falcon_h1", "FalconH1ForCausalLM", {"num_hidden_layers": 2}),
    ("gemma3_text", "Gemma3ForCausalLM", {"num_hidden_layers": 7}),
    ("gemma3n_text", "Gemma3nForCausalLM", {}),
    ("glm4_moe", "Glm4MoeForCausalLM", {"num_hidden_layers": 3}),
    ("gpt_bigcode", "GPTBigCodeForCausalLM", {}),
    ("gpt_neox", "GPTNeoXForCausalLM", {"num_hidden_layers": 2}),
    ("granitemoehybrid", "GraniteMoeHybridForCausalLM", {"num_hidden_layers": 3}),
    ("jamba", "JambaForCausalLM", {"num_hidden_layers": 8}),
    ("lfm2", "Lfm2ForCausalLM", {"num_hidden_layers": 4, "full_attn_idxs": [1, 3]}),
    ("mamba2", "Mamba2ForCausalLM", {"num_hidden_layers": 3}),
    ("minimax", "MiniMaxForCausalLM", {"num_hidden_layers": 4}),
    ("nemotron_h", "NemotronHForCausalLM", {}),
    ("olmoe", "OlmoeForCausalLM", {"num_hidden_layers": 2}),
    ("opt", "OPTForCausalLM", {"num_hidden_layers": 2}),
    ("phimoe", "PhimoeForCausalLM", {"num_hidden_layers": 2}),
    ("qwen2_moe", "Qwen2MoeForCausalLM", {"num_hidden_layers": 3}),
    ("seed_oss", "SeedOssForCausalLM", {"num_hidden_layers": 2}),
    ("stablelm", "StableLmForCausalLM", {"num_hidden_layers": 2, "use_qkv_bias": True}),
    ("starcoder2", "Starcoder2ForCausalLM", {"num_hidden_layers": 2}),
    ("zamba2", "Zamba2ForCausalLM", {"n_mamba_heads": 80}),
    (
        "zamba2",
        "Zamba2ForCausalLM",
        {
            "use_shared_attention_adapter": True,
            "num_mem_blocks": 2,
            "use_mem_rope": True,
            "n_mamba_heads": 80,
        },
    ),
    ("ernie4_5_vl_moe", "Ernie4_5_VLMoeForConditionalGeneration", {}),
    ("exaone4_5", "Exaone4_5_ForConditionalGeneration", {}),
    ("mistral3", "Mistral3ForConditionalGeneration", {}),
    ("qwen2_vl", "Qwen2VLForConditionalGeneration", {}),
    ("qwen3_vl", "Qwen3VLForConditionalGeneration", {}),
    ("internvl", "InternVLForConditionalGeneration", {}),
]


@pytest.mark.parametrize(("model_type", "architecture", "sizes"), CASES, ids=[case[1] for case in CASES])
def test_parameters_are_those_of_transformers(
    model_type: str, architecture: str, sizes: dict[str, Any]
) -> None:
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    with torch.device("meta"):
        model = getattr(transformers, architecture)(config)
    model.tie_weights()
    own = {id(parameter): parameter.numel() for parameter in model.parameters()}
    fields = json.loads(config.to_json_string(use_diff=False))
    spec = spec_from_config({**fields, "architectures": [architecture]}, architecture)
    # A router's score bias is a parameter in some classes and a buffer in others.
    assert total_parameters(spec).total == pytest.approx(sum(own.values()), rel=1e-4)
