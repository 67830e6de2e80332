"""What drafts from a model's hidden states: an EAGLE or EAGLE-3 head by its own config, or a layer like the model's.

vllm model_executor/models/llama_eagle.py and llama_eagle3.py (0.24.0). Embedding, and EAGLE's output head, are taken to
be the target's, as they are where the checkpoint has none of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from farspan.errors import NotFoundError, UnsupportedError
from farspan.models.config import read_model_config
from farspan.models.online_fp8 import in_layers
from farspan.models.spec import AttentionKind, LayerSpec, ModelSpec
from farspan.models.tensors import Shard, WeightPart, WeightTensor

AVERAGE_LAYER = "draft layer"
_AUXILIARY_STATES = 3  # hidden states that EAGLE-3 reads, where the config does not count them
# Heads that are one Llama layer or several; others have layers of their own kind.
_CLASSES = frozenset({"LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "EagleLlamaForCausalLM", "LlamaForCausalLM",
                      "LlamaForCausalLMEagle", "EagleModel", "Eagle3DraftModel"})  # fmt: skip


def with_draft_layer(model: ModelSpec) -> ModelSpec:
    """One layer more, as large as the others on average, and the projection that joins token and hidden state.

    A checkpoint of fp8 kind keeps it in FP8 like the others; others leave it unquantized.
    """
    inner = sum(tensor.count for tensor in model.weights if in_layers(tensor)) // model.num_layers
    joined = 2 * model.hidden_size * model.hidden_size
    in_fp8 = model.quantization is not None and model.quantization.method == "fp8"
    draft = (
        WeightTensor(
            AVERAGE_LAYER, WeightPart.DENSE_MLP, (inner,), Shard.SPLIT, dtype_bytes=1 if in_fp8 else 0
        ),
        WeightTensor(f"{AVERAGE_LAYER} projection", WeightPart.DENSE_MLP, (joined,), Shard.SPLIT),
    )
    attending = [layer for layer in model.layers if layer.attention is AttentionKind.FULL]
    pattern = (attending or list(model.layers))[-1]
    layer = replace(pattern, index=model.num_layers, shares_kv_with=None)
    return replace(model, layers=(*model.layers, layer), weights=(*model.weights, *draft))


def with_eagle_head(model: ModelSpec, draft: str, *, third: bool) -> ModelSpec | None:
    """The model with the head of a path or name; None where there is none, or its config is not at hand.

    Args:
        model: The model.
        draft: Path or name of the head; empty for none.
        third: Whether it is an EAGLE-3 head.

    Raises:
        UnsupportedError: Its config is there, and says what is not mirrored.
    """
    if not draft or model.layers[0].attention not in (AttentionKind.FULL, AttentionKind.SLIDING_WINDOW):
        return None
    try:
        config, name = read_model_config(draft, allow_network=False)
    except NotFoundError:
        return None
    architectures = config.get("architectures")
    named = architectures if isinstance(architectures, list) else []
    if named[:1] == [model.architecture] and model.architecture not in _CLASSES:
        return None  # the checkpoint itself, with a draft layer of its own inside
    if not any(str(one) in _CLASSES for one in named):
        raise UnsupportedError(
            f"the head {name} is {', '.join(map(str, named)) or 'of no known class'}, which farspan does not mirror",
            "plan without it, and leave the draft's weights and KV free",
        )
    hidden, heads = _number(config, "hidden_size", name), _number(config, "num_attention_heads", name)
    keys = _number(config, "num_key_value_heads", name, heads)
    size = _number(config, "head_dim", name, hidden // heads)
    mlp, layers = _number(config, "intermediate_size", name), _number(config, "num_hidden_layers", name, 1)
    weights: list[WeightTensor] = []
    for number in range(layers):
        read = 2 * hidden if third and number == 0 else hidden
        weights += [
            _tensor(number, "queries", WeightPart.ATTENTION, (heads * size, read), Shard.SPLIT),
            replace(
                _tensor(
                    number, "keys and values", WeightPart.ATTENTION, (2 * keys * size, read), Shard.KV_HEADS
                ),
                units=keys,
            ),
            _tensor(number, "output", WeightPart.ATTENTION, (hidden, heads * size), Shard.SPLIT),
            _tensor(number, "gate and up", WeightPart.DENSE_MLP, (2 * mlp, hidden), Shard.SPLIT),
            _tensor(number, "down", WeightPart.DENSE_MLP, (hidden, mlp), Shard.SPLIT),
        ]
    states = _number(config, "num_aux_hidden_states", name, _AUXILIARY_STATES) if third else 2
    width = _number(config, "target_hidden_size", name, hidden) if third else hidden
    weights.append(
        _tensor(0, "joining projection", WeightPart.DENSE_MLP, (hidden, states * width), Shard.REPLICATED)
    )
    if third:
        vocabulary = _number(config, "draft_vocab_size", name, model.vocab_size)
        weights.append(_tensor(0, "output head", WeightPart.LM_HEAD, (vocabulary, hidden), Shard.VOCAB))
    first = model.num_layers
    added = tuple(
        LayerSpec(first + number, AttentionKind.FULL, heads, keys, size, size, intermediate_size=mlp)
        for number in range(layers)
    )
    return replace(model, layers=(*model.layers, *added), weights=(*model.weights, *weights))


def _tensor(layer: int, what: str, part: WeightPart, shape: tuple[int, ...], shard: Shard) -> WeightTensor:
    return WeightTensor(f"draft {layer} {what}", part, shape, shard)


def _number(config: Mapping[str, object], key: str, name: str, default: int = 0) -> int:
    value = config.get(key)
    if value is None and default:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UnsupportedError(
            f"the head {name} has no {key} that can be read", "plan without it, and leave room for the draft"
        )
    return value
