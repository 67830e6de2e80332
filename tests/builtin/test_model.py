"""The built-in engine's logits against transformers' own, on small random checkpoints of every kind it runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import Llama4ForCausalLM, Llama4TextConfig, LlamaConfig, LlamaForCausalLM

from farspan.builtin.model import LlamaModel, Piece
from farspan.errors import CheckpointError
from farspan.kv.kv_options import KVOptions
from farspan.kv.kvcache import ElasticKVCache

STEP = 24


def llama4(folder: Path, **changes: Any) -> torch.nn.Module:
    config = Llama4TextConfig(
        **{
            "vocab_size": 97,
            "hidden_size": 48,
            "intermediate_size": 32,
            "intermediate_size_mlp": 40,
            "num_hidden_layers": 5,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "attention_chunk_size": 16,
            "floor_scale": 8,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
            "max_position_embeddings": 4096,
            "attn_implementation": "eager",
        }
        | changes
    )
    return save(Llama4ForCausalLM, config, folder)


def llama3(folder: Path, **changes: Any) -> torch.nn.Module:
    config = LlamaConfig(
        **{
            "vocab_size": 97,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "attn_implementation": "eager",
        }
        | changes
    )
    return save(LlamaForCausalLM, config, folder)


def save(kind: Any, config: Any, folder: Path) -> torch.nn.Module:
    torch.manual_seed(11)
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # transformers leaves experts empty and norms at one; neither would show a mistake
            parameter.copy_(torch.randn_like(parameter) * 0.1 + (1.0 if "norm" in name else 0.0))
    model.save_pretrained(folder)
    return model


def logits(model: LlamaModel, tokens: torch.Tensor, step: int) -> torch.Tensor:
    """All logits of one sequence, computed `step` tokens at a time."""
    cache = cache_of(model, step)
    sequence = cache.open(tokens.numpy().astype("int32"), len(tokens))
    assert sequence is not None
    parts = []
    for start in range(0, len(tokens), step):
        ids = tokens[start : start + step]
        sequence.append(len(ids))
        parts.append(model.all_logits([Piece(sequence, ids, start)]))
        sequence.computed(ids.numpy().astype(np.int32))
        cache.check_integrity()
    sequence.close()
    return torch.cat(parts)


def cache_of(model: LlamaModel, step: int) -> ElasticKVCache:
    return ElasticKVCache(
        layers=model.retentions,
        num_kv_heads=model.config.num_key_value_heads,
        head_dim=model.config.head_dim,
        dtype=model.dtype,
        device=model.device,
        max_step_tokens=step,
        options=KVOptions(capacity_gib=1),
    )


LLAMA4 = {
    "scout-like": {},
    "dense": {"moe_layers": [], "use_qk_norm": False},
    "all experts, top 2": {"moe_layers": [0, 1, 2, 3, 4], "num_experts_per_tok": 2},
    "no temperature tuning": {"attn_temperature_tuning": False},
    "one KV head": {"num_key_value_heads": 1},
    "llama3 rope": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 16.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 1.0,
            "original_max_position_embeddings": 64,
        }
    },
}
LLAMA3 = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "own head_dim": {"head_dim": 32},
    "llama3.1 rope": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
}
CASES = [(llama4, name, change) for name, change in LLAMA4.items()]
CASES += [(llama3, name, change) for name, change in LLAMA3.items()]


@pytest.mark.parametrize(("make", "name", "changes"), CASES, ids=[f"{m.__name__} {n}" for m, n, _ in CASES])
@pytest.mark.parametrize("step", [200, STEP, 1])
def test_logits_agree_with_transformers(
    make: Any, name: str, changes: dict[str, Any], step: int, tmp_path: Path
) -> None:
    reference = make(tmp_path, **changes)
    tokens = torch.randint(0, 97, (75,), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = reference(tokens[None]).logits[0]
    actual = logits(LlamaModel(tmp_path), tokens, step)
    assert expected.abs().max() > 0.1, "a model of zeros would prove nothing"
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=0)


def test_batched_pieces_do_not_see_each_other(tmp_path: Path) -> None:
    llama4(tmp_path)
    model = LlamaModel(tmp_path)
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(0, 97, (n,), generator=generator) for n in (40, 3, 17)]
    alone = [logits(model, prompt, 200)[-1] for prompt in prompts]
    cache = cache_of(model, 64)
    pieces = []
    for prompt in prompts:
        sequence = cache.open(prompt.numpy().astype("int32"), len(prompt))
        assert sequence is not None
        sequence.append(len(prompt))
        pieces.append(Piece(sequence, prompt, 0))
    torch.testing.assert_close(model.forward(pieces), torch.stack(alone), atol=1e-5, rtol=0)


def test_bfloat16_is_close(tmp_path: Path) -> None:
    # dense: one rounding can send a token to another expert, and then nothing is close
    reference = llama4(tmp_path, moe_layers=[])
    tokens = torch.randint(0, 97, (60,), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = reference(tokens[None]).logits[0]
    actual = logits(LlamaModel(tmp_path, dtype=torch.bfloat16), tokens, STEP)
    assert (actual - expected).norm() < 0.02 * expected.norm()


def test_llama4_inside_a_multimodal_checkpoint(tmp_path: Path) -> None:
    """Llama4ForConditionalGeneration nests the text config and prefixes the weights."""
    from safetensors.torch import load_file, save_file

    reference = llama4(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({f"language_model.{name}": t for name, t in load_file(path).items()}, path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama4", "text_config": config}))
    tokens = torch.arange(30)
    with torch.no_grad():
        expected = reference(tokens[None]).logits[0]
    torch.testing.assert_close(logits(LlamaModel(tmp_path), tokens, STEP), expected, atol=1e-3, rtol=0)


def test_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        LlamaModel(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"has no config\.json; give a Hugging Face checkpoint folder"):
        LlamaModel(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"is not JSON .*; check that the checkpoint is whole"):
        LlamaModel(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mamba2"}')
    with pytest.raises(CheckpointError, match="does not run model_type 'mamba2'"):
        LlamaModel(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="lacks or garbles 'num_hidden_layers'"):
        LlamaModel(tmp_path)


def test_damaged_weights(tmp_path: Path) -> None:
    llama4(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        LlamaModel(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"has no \.safetensors file"):
        LlamaModel(tmp_path)
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 98}))
    with pytest.raises(CheckpointError, match="shape"):
        LlamaModel(tmp_path)


def test_weight_bytes_are_those_of_all_tensors(probe_folder: Path, probe_model: LlamaModel) -> None:
    with safe_open(probe_folder / "model.safetensors", "pt") as file:
        values = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - not a mapping
    assert probe_model.weight_bytes == values * probe_model.dtype.itemsize
