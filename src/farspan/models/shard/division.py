"""How a model is divided over GPUs, and the config fields that the division reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from farspan.errors import InputError, UnsupportedError
from farspan.models.families.field_names import spellings


@dataclass(frozen=True, slots=True)
class Division:
    """How a model is divided.

    Args:
        tp: Ranks that heads, widths and the vocabulary are divided over.
        ep: Ranks that whole experts are shared out over; `tp` is a multiple of it, and the width of each expert is
            divided over the rest.
        layers: The layers of one pipeline stage; None for all.
    """

    tp: int = 1
    ep: int = 1
    layers: range | None = None

    def __post_init__(self) -> None:
        if self.tp < 1 or self.ep < 1 or self.tp % self.ep:
            raise InputError(
                f"experts cannot be shared out over {self.ep} of {self.tp} ranks",
                "give a --tp that is a multiple of --ep",
            )

    @property
    def expert_tp(self) -> int:
        """Ranks that the width of one expert is divided over."""
        return self.tp // self.ep

    @property
    def text(self) -> str:
        """It in words."""
        parts = [f"TP {self.tp}"]
        if self.ep > 1:
            parts.append(f"EP {self.ep}")
        if self.layers is not None:
            parts.append(f"layers {self.layers.start} to {self.layers.stop - 1}")
        return ", ".join(parts)


class FieldKind(StrEnum):
    """What a config field counts, which says how it is divided."""

    HEADS = "heads"  # divided evenly
    KV_HEADS = "KV heads"  # divided, and one a rank once there are more ranks
    GROUPS = "groups of Mamba heads"  # divided, and a lone one copied to every rank
    EXPANSION = "Mamba's width in hidden sizes"  # divided evenly, and still a whole number
    WIDTH = "width"  # divided evenly
    EXPERT_WIDTH = "expert width"  # divided over the ranks that share an expert
    EXPERTS = "experts"  # shared out whole
    TOP_K = "experts a token"  # the share of them that falls on a rank
    VOCABULARY = "vocabulary"  # padded to a multiple of 64 rows, then divided


def _names(*canonical: str) -> tuple[str, ...]:
    return tuple(name for one in canonical for name in spellings(one))


_FIELDS: dict[FieldKind, tuple[str, ...]] = {
    FieldKind.HEADS: (
        *_names("num_attention_heads"),
        "swa_num_attention_heads",
        "o_groups",
        "linear_num_key_heads",
        "linear_num_value_heads",
        "linear_num_heads",
        "mamba_num_heads",
        "mamba_n_heads",
        "n_mamba_heads",
        "num_attention_heads_per_layer",
    ),
    FieldKind.KV_HEADS: (
        *_names("num_key_value_heads"),
        "swa_num_key_value_heads",
        "num_global_key_value_heads",
        "sparse_num_index_heads",
        "multi_query_group_num",
    ),
    FieldKind.GROUPS: ("n_groups", "mamba_n_groups", "mamba_ngroups"),
    FieldKind.EXPANSION: ("mamba_expand", "expand"),
    FieldKind.WIDTH: (
        *_names("intermediate_size", "shared_expert_intermediate_size"),
        "intermediate_size_mlp",
        "dense_intermediate_size",
        "prefix_dense_intermediate_size",
        "mamba_d_ssm",
    ),
    FieldKind.EXPERT_WIDTH: _names("moe_intermediate_size"),
    FieldKind.EXPERTS: _names("num_experts"),
    FieldKind.TOP_K: _names("num_experts_per_tok"),
    FieldKind.VOCABULARY: (*_names("vocab_size"), "vocab_size_per_layer_input"),
}
_KIND_OF = {name: kind for kind, names in _FIELDS.items() for name in names}
# Fields beside which Mamba's width is no multiple of the hidden size.
_OWN_MAMBA_WIDTH = ("mamba_num_heads", "mamba_d_ssm")
# Sections that hold the dimensions of some layers, or of an indexer.
_NESTED = ("linear_attn_config", "sparse_attention_config")
VOCABULARY_ROWS = 64  # what engines pad the vocabulary to a multiple of


def divide_fields(fields: MutableMapping[str, Any], division: Division) -> None:
    """Replace every count in a decoder's config by one rank's share, in place.

    Raises:
        UnsupportedError: A count cannot be divided evenly; it is named.
    """
    own_width = any(fields.get(name) for name in _FIELDS[FieldKind.EXPERT_WIDTH])
    has_experts = any(fields.get(name) for name in _FIELDS[FieldKind.EXPERTS])
    for name, kind in _present(fields):
        # Where experts have no width of their own, the MLP's is theirs.
        is_experts = name in _names("intermediate_size") and has_experts and not own_width
        fields[name] = _divide(name, fields[name], FieldKind.EXPERT_WIDTH if is_experts else kind, division)
    for section in _NESTED:
        if isinstance(fields.get(section), Mapping):
            inner = dict(fields[section])
            for name, kind in _present(inner):
                inner[name] = _divide(f"{section}.{name}", inner[name], kind, division)
            fields[section] = inner


def _present(fields: Mapping[str, Any]) -> Iterator[tuple[str, FieldKind]]:
    own_mamba_width = any(fields.get(name) for name in _OWN_MAMBA_WIDTH)
    for name in list(fields):
        if name not in _KIND_OF or not fields[name] or isinstance(fields[name], bool):
            continue
        if _KIND_OF[name] is not FieldKind.EXPANSION or not own_mamba_width:
            yield name, _KIND_OF[name]


def _divide(name: str, value: Any, kind: FieldKind, division: Division) -> Any:
    if isinstance(value, list):
        return [_divide(name, one, kind, division) for one in value]
    if not isinstance(value, int):
        return value
    if kind is FieldKind.VOCABULARY:
        return -(-(-(-value // VOCABULARY_ROWS) * VOCABULARY_ROWS) // division.tp)
    if kind is FieldKind.TOP_K:
        return max(1, value // division.ep)
    if kind is FieldKind.KV_HEADS:
        if value % division.tp and division.tp % value:
            raise UnsupportedError(
                f"{name} is {value}, which {division.tp} ranks can neither divide nor copy evenly"
            )
        return max(1, value // division.tp)
    if kind is FieldKind.GROUPS and value == 1:
        return 1
    if kind is FieldKind.EXPANSION and value % division.tp:
        raise UnsupportedError(
            f"Mamba's width is {name}, {value}, times the hidden size, and {division.tp} ranks do not divide it"
        )
    ranks = {FieldKind.EXPERTS: division.ep, FieldKind.EXPERT_WIDTH: division.expert_tp}.get(
        kind, division.tp
    )
    if value % ranks:
        raise UnsupportedError(f"{name} is {value}, which {ranks} ranks do not divide")
    return value // ranks
