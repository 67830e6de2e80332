"""Parameter counts against transformers' own classes, built on the meta device: an independent witness."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from farspan.models import catalog
from farspan.models.config import spec_from_config
from farspan.models.weights import total_parameters

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# Kimi K3 has no transformers class; every other architecture of the catalog is built at full width and depth.
WITNESSED = [entry for entry in catalog.entries() if entry.name != "kimi-k3"]


def _count(model: Any) -> int:
    """Parameters (tied ones once) and the buffers a checkpoint stores."""
    stored = set(model.state_dict())
    buffers = sum(tensor.numel() for name, tensor in model.named_buffers() if name in stored)
    return buffers + sum(tensor.numel() for tensor in model.parameters())


def _build(config: dict[str, Any]) -> Any:
    """The published class, or the one transformers has for the same layers."""
    fields, architecture = copy.deepcopy(config), config["architectures"][0]
    if architecture == "MiniMaxM3ForCausalLM":
        from transformers.models.minimax_m3_vl import configuration_minimax_m3_vl, modeling_minimax_m3_vl

        text = configuration_minimax_m3_vl.MiniMaxM3VLTextConfig(**fields)
        return modeling_minimax_m3_vl.MiniMaxM3VLForCausalLM(text)
    if architecture == "Step3p7FlashForCausalLM":
        from transformers.models.step3p7 import configuration_step3p7, modeling_step3p7

        fields["n_routed_experts"] = fields.pop("num_experts")
        text = configuration_step3p7.Step3p7TextConfig(**fields)
        body = modeling_step3p7.Step3p7TextModel(text)
        head = torch.nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        return torch.nn.ModuleList([body, head])
    cls = transformers.CONFIG_MAPPING[config["model_type"]]
    built = cls.from_dict(fields)
    known = getattr(transformers, architecture, None)
    return known(built) if known else transformers.AutoModelForImageTextToText.from_config(built)


@pytest.mark.parametrize("entry", WITNESSED, ids=lambda entry: entry.name)
def test_parameter_count_is_exactly_transformers(entry: catalog.CatalogEntry) -> None:
    config = entry.config()
    # How the weights are stored does not change how many there are; a quantized class would hide it.
    for level in (config, config.get("text_config", {})):
        level.pop("quantization_config", None)
    with torch.device("meta"):
        expected = _count(_build(config))
    assert total_parameters(spec_from_config(config, entry.name)).total == expected
