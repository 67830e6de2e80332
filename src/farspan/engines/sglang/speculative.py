"""Speculative decoding: what drafts, what it takes of a GPU, and since when the pool is sized with it in mind.

Up to 0.5.13 the pool is sized before the draft is loaded, and the draft's weights and KV come out of what
--mem-fraction-static leaves; from 0.5.14 both are counted first (`DefaultPoolConfigurator`, `maybe_init_draft_worker`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from farspan.engines.sglang.versions import SglangRules
from farspan.errors import InputError, NotFoundError, UnsupportedError
from farspan.models.config import load_model
from farspan.models.draft_heads import with_draft_layer, with_eagle_head
from farspan.models.spec import KvDtype, LayerSpec, ModelSpec
from farspan.models.tensors import WeightPart
from farspan.models.weights import rank_weight_bytes
from farspan.planner.request import PlanRequest

ALGORITHM = ("--speculative-algorithm", "--speculative-algo")
_DRAFT = ("--speculative-draft-model-path", "--speculative-draft-model")
_STEPS, _TOPK, _TOKENS = (
    "--speculative-num-steps",
    "--speculative-eagle-topk",
    "--speculative-num-draft-tokens",
)
_EAGLE, _EAGLE3, _STANDALONE, _NGRAM = "EAGLE", "EAGLE3", "STANDALONE", "NGRAM"
_NAMES = {"NEXTN": _EAGLE, _EAGLE: _EAGLE, _EAGLE3: _EAGLE3, _STANDALONE: _STANDALONE, _NGRAM: _NGRAM}
DEFAULT_REQUESTS = 48  # --max-running-requests beside every algorithm
_CHAINS, _TREES = (3, 1, 4), (5, 4, 8)  # steps, branches and tokens where none is given
# Models with a draft layer in their own checkpoint: NEXTN needs no path (`_handle_eagle_family`).
_DRAFT_INSIDE = frozenset(
    {
        "DeepseekV32ForCausalLM",
        "DeepseekV3ForCausalLM",
        "Glm4MoeForCausalLM",
        "Glm4MoeLiteForCausalLM",
        "GlmMoeDsaForCausalLM",
        "BailingMoeForCausalLM",
        "BailingMoeV2ForCausalLM",
        "MistralLarge3ForCausalLM",
        "PixtralForConditionalGeneration",
        "HYV3ForCausalLM",
    }
)
_WITH_CHAINS = _DRAFT_INSIDE | {"DeepseekV2ForCausalLM", "GptOssForCausalLM"}
_NGRAM_TOKENS = 12  # --speculative-ngram-max-match-window-size


class Speculation(NamedTuple):
    """What was asked for, with SGLang's defaults.

    Args:
        algorithm: EAGLE (NEXTN too), EAGLE3, STANDALONE or NGRAM.
        draft: The draft's path; empty where it is in the model's own checkpoint, or there is none.
        steps: Tokens drafted one after the other.
        topk: Branches of each step.
        tokens: Tokens verified at once.
    """

    algorithm: str
    draft: str
    steps: int
    topk: int
    tokens: int

    @property
    def drafts_with_a_model(self) -> bool:
        """Whether a draft has weights and KV."""
        return self.algorithm != _NGRAM

    def headroom(self, rows: int, rules: SglangRules) -> int:
        """Tokens more than the budget holds, for drafts and what is verified (0.5.6.post2 `init_memory_pool`)."""
        if not self.drafts_with_a_model or not rules.drafts_widen_pool:
            return 0
        return rows * (self.steps * self.topk + self.tokens) + 100

    def reserved_mib(self, rules: SglangRules) -> int:
        """What the default fraction leaves for the draft, MiB."""
        if rules.counts_drafts:
            return 0
        if self.algorithm == _STANDALONE:
            return rules.standalone_reserve_mib
        return rules.draft_reserve_mib if self.drafts_with_a_model else rules.ngram_reserve_mib


class Draft(NamedTuple):
    """What a draft takes of one GPU.

    Args:
        layers: Its layers that keep KV.
        weights: Its weights once the server is up.
        copies: Its copies of embedding and output head: loaded, and given back for the model's after the pool is
            sized (`init_lm_head`).
        token_bytes: KV bytes a token.
        words: What it is, in words.
    """

    layers: int
    weights: int
    copies: int
    token_bytes: int
    words: str


def read_speculation(request: PlanRequest) -> Speculation | None:
    """Read the speculative flags; None without an algorithm.

    Raises:
        InputError: A value that SGLang refuses.
        UnsupportedError: An algorithm, or a flag beside it, whose memory is not mirrored.
    """
    named = request.text_flag("", *ALGORITHM).upper()
    if not named or named in ("NONE", "NULL"):
        return None
    if named not in _NAMES:
        raise UnsupportedError(
            f"{ALGORITHM[0]} {named} drafts in a way farspan does not mirror",
            f"plan one of {', '.join(_NAMES)}, or without it",
        )
    algorithm, model = _NAMES[named], request.model
    if any(layer.states for layer in model.layers):
        raise UnsupportedError(
            f"{ALGORITHM[0]} keeps a recurrent state for every drafted token of {model.name}, which is not mirrored",
            f"plan without {ALGORITHM[0]}",
        )
    draft = request.text_flag("", *_DRAFT)
    if algorithm == _NGRAM:
        return Speculation(algorithm, "", 1, 1, request.int_flag(_NGRAM_TOKENS, _TOKENS))
    if not draft and (algorithm != _EAGLE or model.architecture not in _DRAFT_INSIDE):
        raise InputError(
            f"{ALGORITHM[0]} {named} of {model.name} needs a draft", f"give {_DRAFT[0]} with its folder"
        )
    steps, topk, tokens = _shape(request, algorithm)
    return Speculation(algorithm, draft, steps, topk, tokens)


def _shape(request: PlanRequest, algorithm: str) -> tuple[int, int, int]:
    """Steps, branches and tokens (`auto_choose_speculative_params`)."""
    given = [request.has_flag(name) for name in (_STEPS, _TOPK, _TOKENS)]
    chains = algorithm == _STANDALONE or request.model.architecture in _WITH_CHAINS
    steps, topk, tokens = _CHAINS if chains else _TREES
    if any(given):
        if not all(given[:2]):
            raise InputError(
                f"{_STEPS}, {_TOPK} and {_TOKENS} are given together or not at all", "give all, or none"
            )
        steps, topk = request.int_flag(1, _STEPS), request.int_flag(1, _TOPK)
        tokens = request.int_flag(steps + 1, _TOKENS)
    if min(steps, topk, tokens) < 1:
        raise InputError(
            f"{_STEPS} {steps} {_TOPK} {topk} {_TOKENS} {tokens} drafts nothing", "give at least 1 of each"
        )
    return steps, topk, steps + 1 if topk == 1 else tokens


@lru_cache(maxsize=128)
def draft_of(model: ModelSpec, speculation: Speculation | None, tp: int, kv_dtype: KvDtype) -> Draft | None:
    """The draft of a server; None where nothing is loaded.

    Raises:
        UnsupportedError: Its config is not at hand.
    """
    if speculation is None or not speculation.drafts_with_a_model:
        return None
    width = kv_dtype.value_bytes(model.dtype_bytes)
    if speculation.algorithm == _STANDALONE:
        draft = _load(speculation.draft)
        if draft.vocab_size != model.vocab_size:
            raise InputError(
                f"{draft.name} has a vocabulary of {draft.vocab_size:,} and {model.name} one of {model.vocab_size:,}",
                "draft with a model of the same family",
            )
        weights, layers, copies = rank_weight_bytes(draft, tp).total, draft.layers, 0
        words = f"{draft.name}, whole"
    else:
        third = speculation.algorithm == _EAGLE3
        drafting = with_eagle_head(model, speculation.draft, third=third)
        words = "a head by its own config"
        if drafting is None:
            if speculation.draft and third:
                _load(speculation.draft)
            drafting = with_draft_layer(model)
            words = "a layer as large as the model's own are on average"
        weights = rank_weight_bytes(drafting, tp).total - rank_weight_bytes(model, tp).total
        layers = drafting.layers[model.num_layers :]
        parts = rank_weight_bytes(model, tp).by_part
        copies = parts.get(WeightPart.EMBEDDING, 0) + (0 if third else parts.get(WeightPart.LM_HEAD, 0))
    kept = [layer for layer in layers if not layer.keeps_no_tokens]
    return Draft(len(layers), weights, copies, sum(_token_bytes(layer, width, tp) for layer in kept), words)


def _token_bytes(layer: LayerSpec, width: int, tp: int) -> int:
    return layer.kv_entry_bytes(width, tp) + layer.indexer_entry_bytes


def _load(path: str) -> ModelSpec:
    try:
        return load_model(path, allow_network=False)
    except NotFoundError as error:
        raise UnsupportedError(
            f"{_DRAFT[0]} names {path}, whose config is neither in the catalog nor on this machine",
            "name its folder or config.json there, or plan without it and leave its weights and KV free",
        ) from error
