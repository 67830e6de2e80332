"""From a model's config and a division to the config of one rank."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from farspan.errors import InputError, UnsupportedError
from farspan.models.config import spec_from_config
from farspan.models.shard.config_form import ANY_ENGINE, ConfigForm
from farspan.models.shard.division import Division, divide_fields
from farspan.models.shard.rank_share import TOWERS, check_blocks, check_share, rank_weights, routing_tables
from farspan.models.shard.text_config import extract_text, nest_text, take_layers, wrap_text
from farspan.models.shard.unsaid_sizes import check_expert_width, check_head_size, write_sizes
from farspan.models.spec import AttentionKind, ModelSpec
from farspan.models.weights import rank_weight_bytes
from farspan.sizes import format_bytes

_MOST_RANKS = 64
_LATENT = (AttentionKind.MLA, AttentionKind.COMPRESSED)
# Ids of the special tokens in a shard's own vocabulary, which is shorter than the model's.
EOS_ID, BOS_ID = 0, 1
_TOKEN_IDS = {"eos_token_id": EOS_ID, "pad_token_id": EOS_ID, "bos_token_id": BOS_ID}


@dataclass(frozen=True, slots=True)
class RankShard:
    """One rank of a deployment as a model of its own.

    Args:
        config: The content of its config.json.
        spec: The same as planners read it.
        whole: The model it is a rank of.
        division: How that is divided.
        differences: What is not as on the rank, one sentence each.
    """

    config: Mapping[str, Any]
    spec: ModelSpec
    whole: ModelSpec
    division: Division
    differences: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights it loads; an encoder that its config describes is not loaded."""
        return sum(rank_weights(self.spec, Division()).values())


def shard_config(
    config: Mapping[str, Any],
    name: str,
    division: Division,
    *,
    form: ConfigForm = ANY_ENGINE,
    ignore_fields: Sequence[str] = (),
) -> RankShard:
    """Make the config of one rank. What it describes is read again and held against the rank's share of the whole.

    Args:
        config: The whole model's config.json.
        name: What to call the model.
        division: How it is divided.
        form: How the engine that is to serve it reads configs.
        ignore_fields: Unknown fields that the user says cannot change memory.

    Raises:
        UnsupportedError: It cannot be divided evenly, or no config describes the rank; what it is about is named,
            and the nearest tensor-parallel size that works.
        InputError: The config itself cannot be read.
    """
    whole = spec_from_config(config, name, ignore_fields=ignore_fields)
    near: Iterator[int] = iter(())
    try:
        alone = _cut(config, whole, division, form, ignore_fields)
        near = _working(alone, division)
        shard = _divide(alone, division)
    except UnsupportedError as error:
        fix = error.fix or "plan it with farspan plan, which needs no shard"
        if (tp := next(near, 1)) > 1:
            fix = f"use --tp {tp}"
        raise UnsupportedError(f"no shard of {name} at {division.text}: {error.message}", fix) from error
    formed: Mapping[str, Any] | None = None
    if form.keeps_wrapper:
        formed = wrap_text(config, shard.config)
    elif form.nested:
        formed = nest_text(shard.config, form.model_type)
    if formed is None:
        return shard
    return replace(shard, config=formed, spec=spec_from_config(formed, name, ignore_fields=ignore_fields))


class _Alone(NamedTuple):
    """The layers of a rank before tensor parallelism: its stage's, without encoders.

    Attributes:
        whole: The model that they are of.
        fields: Their config.json.
        spec: The same as planners read it.
        dropped: Whether something around the language model was left out.
        least_expert_width: What the engine pads a rank's share of an expert's width to; 0 for nothing.
        rewritten: What its config says otherwise for the engine's sake; empty for nothing.
        ignore_fields: Unknown fields that cannot change memory.
    """

    whole: ModelSpec
    fields: Mapping[str, Any]
    spec: ModelSpec
    dropped: bool
    least_expert_width: int
    rewritten: str
    ignore_fields: Sequence[str]


def _cut(
    config: Mapping[str, Any],
    whole: ModelSpec,
    division: Division,
    form: ConfigForm,
    ignore_fields: Sequence[str],
) -> _Alone:
    fields, dropped = extract_text(config)
    if form.decoder:
        fields["architectures"] = [form.decoder]
    if form.model_type and not form.nested:
        fields["model_type"] = form.model_type
    layers = division.layers
    if layers is not None:
        if not layers or layers.stop > whole.num_layers:
            raise UnsupportedError(f"it has {whole.num_layers} layers", "give fewer pipeline stages")
        take_layers(fields, whole.num_layers, layers)
    spec = _read(fields, whole.name, ignore_fields)
    _check_cut(whole, spec, layers)
    if division.tp > 1:
        write_sizes(fields, spec)
    fields, rewritten = check_head_size(fields, spec, form, division.tp)
    return _Alone(whole, fields, spec, dropped, form.least_expert_width, rewritten, ignore_fields)


def _working(alone: _Alone, division: Division) -> Iterator[int]:
    """The tensor-parallel sizes that work, the nearest first."""
    near = sorted(range(1, _MOST_RANKS + 1), key=lambda tp: (abs(math.log(tp / division.tp)), tp))
    for tp in near:
        if tp == division.tp or tp % division.ep:
            continue
        try:
            _divide(alone, replace(division, tp=tp))
        except UnsupportedError:
            continue
        yield tp


def _divide(alone: _Alone, division: Division) -> RankShard:
    fields = copy.deepcopy(dict(alone.fields))
    divide_fields(fields, division)
    fields.update({key: value for key, value in _TOKEN_IDS.items() if key in fields or key != "pad_token_id"})
    shard = _read(fields, alone.whole.name, alone.ignore_fields)
    check_share(alone.spec, shard, division)
    check_blocks(shard)
    if division.expert_tp > 1:
        check_expert_width(shard, alone.least_expert_width)
    differences = _differences(alone, shard, division)
    return RankShard(fields, shard, alone.whole, division, tuple(differences))


def _read(fields: Mapping[str, Any], name: str, ignore_fields: Sequence[str]) -> ModelSpec:
    try:
        return spec_from_config(fields, name, ignore_fields=ignore_fields)
    except InputError as error:
        raise UnsupportedError(f"its config would not be read: {error.message}") from error


def _check_cut(whole: ModelSpec, cut: ModelSpec, layers: range | None) -> None:
    """Check that the decoder alone, or a stage's layers, are the whole model's.

    Raises:
        UnsupportedError: They are not.
    """
    start = layers.start if layers is not None else 0
    wanted = whole.layers[start : start + len(cut.layers)]
    for layer, own in zip(wanted, cut.layers, strict=False):
        shared = layer.shares_kv_with
        moved = replace(
            layer, index=layer.index - start, shares_kv_with=None if shared is None else shared - start
        )
        if moved != own:
            raise UnsupportedError(f"layer {layer.index} would not be what it is in the whole model")
    if layers is None and len(cut.layers) != whole.num_layers:
        raise UnsupportedError(f"it would have {len(cut.layers)} layers, not {whole.num_layers}")
    if layers is None:
        undivided = Division()
        if rank_weights(cut, undivided) != rank_weights(whole, undivided):
            raise UnsupportedError("the language model alone would not have the weights it has in the whole")


def _differences(alone: _Alone, shard: ModelSpec, division: Division) -> Iterator[str]:
    whole, cut = alone.whole, alone.spec
    tp, layers = division.tp, len(cut.layers)
    if alone.rewritten:
        yield alone.rewritten
    if tp > 1:
        size = whole.hidden_size * whole.dtype_bytes
        yield (
            f"no collectives: a rank's all-reduces after attention and MLP, {2 * layers} of {size:,} bytes a token, "
            "and the gathering of logits are not run"
        )
        yield (
            f"the sampler sees {shard.vocab_size:,} logits, where every rank of the deployment gathers "
            f"{whole.vocab_size:,}"
        )
        yield "norms, routers and latent projections are whole on every rank, and here"
    if missing := routing_tables(cut) - routing_tables(shard):
        yield f"tables that send a word to its experts have the rank's words alone, {format_bytes(missing)} less"
    copied = {
        layer.num_kv_heads
        for layer in cut.layers
        if 0 < layer.num_kv_heads < tp and not (layer.keeps_no_tokens or layer.attention in _LATENT)
    }
    for heads in sorted(copied):
        yield f"its one KV head is one of {heads}, of which {tp} ranks hold {tp // heads} copies each"
    towers = sum(size for part, size in rank_weight_bytes(whole, tp).by_part.items() if part in TOWERS)
    if alone.dropped:
        yield (
            f"the encoders around the language model are left out: {format_bytes(towers)} of a rank's weights"
            if towers
            else "the encoders around the language model are left out"
        )
    if division.ep > 1:
        top_k = next((layer.moe.top_k for layer in shard.layers if layer.moe), 1)
        yield f"every token takes {top_k} of the rank's experts, where routing spreads them as it will"
    if division.layers is not None:
        yield "a pipeline stage has the embedding or the head, not both; this one has both, and sends nothing on"
