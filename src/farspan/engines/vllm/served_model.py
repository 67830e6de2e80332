"""The model that a server really runs: its dtype and weights as the flags change them, a draft head, one stage."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from farspan.engines.vllm.flags import VllmFlags
from farspan.engines.vllm.speculative import DRAFT_MODEL, EAGLE, EAGLE_3
from farspan.engines.vllm.state_dtypes import with_state_dtype
from farspan.errors import InputError, NotFoundError, UnsupportedError
from farspan.models.config import load_model
from farspan.models.draft_heads import AVERAGE_LAYER, with_draft_layer, with_eagle_head
from farspan.models.online_fp8 import with_online_fp8
from farspan.models.pipeline_stage import stage_models
from farspan.models.spec import ModelSpec
from farspan.models.tensors import DTYPE_BYTES

# Methods that draft with one more layer of the model's own width on its hidden states.
_ONE_LAYER = frozenset({"mtp", EAGLE, EAGLE_3})
_NO_WEIGHTS = frozenset({"", "ngram", "ngram_gpu", "suffix", "[ngram]"})


@lru_cache(maxsize=256)
def served_model(model: ModelSpec, given: VllmFlags) -> ModelSpec:
    """The model with --dtype, --quantization, --mamba-ssm-cache-dtype and the draft head of --speculative-config.

    Raises:
        UnsupportedError: A draft whose size the flags do not say.
    """
    changed = with_state_dtype(model, given.state_dtype)
    if given.dtype and DTYPE_BYTES[given.dtype] != model.dtype_bytes:
        changed = replace(changed, torch_dtype=given.dtype)
    if given.quantize_fp8 and changed.quantization is None:
        changed = with_online_fp8(changed)
    if given.speculative in _NO_WEIGHTS:
        return changed
    if given.speculative == DRAFT_MODEL:
        return _with_draft_model(changed, given)
    if given.speculative not in _ONE_LAYER:
        raise UnsupportedError(
            f"--speculative-config with method {given.speculative} loads a draft that farspan does not read",
            "plan without it, and leave the draft's weights and KV free",
        )
    third = given.speculative == EAGLE_3
    return with_eagle_head(changed, given.draft, third=third) or with_draft_layer(changed)


def _with_draft_model(model: ModelSpec, given: VllmFlags) -> ModelSpec:
    """The layers and all weights of a model that drafts beside its own: it shares neither embedding nor output head
    (v1/spec_decode/draft_model.py: DraftModelProposer), and its layers have KV in the same pool.

    Raises:
        InputError: Its vocabulary is another, which vLLM refuses.
        UnsupportedError: Its config is not at hand, or the pipeline has several stages.
    """
    try:
        draft = load_model(given.draft, allow_network=False)
    except NotFoundError as error:
        raise UnsupportedError(
            f"--speculative-config names {given.draft}, whose config is neither in the catalog nor on this machine",
            "name its folder or config.json there, or plan without it and leave its weights and KV free",
        ) from error
    if draft.vocab_size != model.vocab_size:
        raise InputError(
            f"{draft.name} has a vocabulary of {draft.vocab_size:,} and {model.name} one of {model.vocab_size:,}: vLLM "
            "wants them equal",
            "draft with a model of the same family",
        )
    if given.pipeline > 1:
        raise UnsupportedError(
            "a draft model beside pipeline stages is not mirrored", "plan without --pipeline-parallel-size"
        )
    first = model.num_layers
    layers = tuple(
        replace(
            layer,
            index=first + layer.index,
            shares_kv_with=None if layer.shares_kv_with is None else first + layer.shares_kv_with,
        )
        for layer in draft.layers
    )
    # It runs in the target's dtype; tensors of a fixed one keep theirs.
    weights = tuple(replace(tensor, name=f"draft {tensor.name}") for tensor in draft.weights)
    ropes = tuple(rope for rope in draft.ropes if rope not in model.ropes)
    return replace(
        model,
        layers=(*model.layers, *layers),
        weights=(*model.weights, *weights),
        ropes=(*model.ropes, *ropes),
    )


def draft_notes(model: ModelSpec, served: ModelSpec, given: VllmFlags) -> list[str]:
    """What was counted of the draft; nothing without one."""
    if not given.speculative or served.num_layers == model.num_layers:
        return []
    if given.speculative == DRAFT_MODEL:
        return [f"The draft {given.draft} is counted whole: its weights, and the KV of its layers."]
    if any(tensor.name == AVERAGE_LAYER for tensor in served.weights):
        return [
            "The draft layer is counted as large as the model's own layers are on average (assumed), with their KV."
        ]
    return [
        f"The head {given.draft} is counted by its own config; its embedding, and EAGLE's output head, are taken to be "
        "the model's (assumed)."
    ]


@lru_cache(maxsize=256)
def pipeline_stages(model: ModelSpec, pp: int) -> tuple[ModelSpec, ...]:
    """The stages of a model (vllm distributed/utils.py: get_pp_indices): layers as even as they go.

    A stage's share of the layers' weights is its share of the layers; where layers differ in size that is an average.
    """
    if pp == 1:
        return (model,)
    sizes = [model.num_layers // pp] * pp
    for index in range(2, model.num_layers % pp + 2):
        sizes[-index] += 1
    return stage_models(model, tuple(sizes))
