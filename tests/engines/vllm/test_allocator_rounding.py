"""What torch's allocator counts beyond a weight's own bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from farspan.engines.vllm.allocator_rounding import allocator_rounding
from farspan.models.config import load_model
from farspan.models.spec import ModelSpec
from farspan.models.tensors import QuantSpec, RopeSpec, WeightPart, WeightTensor

MIB = 2**20
_20_MIB = 20 * MIB


def model_with(*sizes: float, ropes: tuple[RopeSpec, ...] = ()) -> ModelSpec:
    """A model of weights of so many MiB each, in bf16."""
    weights = tuple(
        WeightTensor(f"layers.*.w{index}", WeightPart.DENSE_MLP, (int(size * MIB / 2),))
        for index, size in enumerate(sizes)
    )
    return replace(load_model("llama-3.1-8b", allow_network=False), weights=weights, ropes=ropes)


@pytest.mark.parametrize(
    ("size", "splitting", "not_splitting"),
    [
        (55.125, 0.875, 0.875),  # less than 1 MiB is never split off
        (10.5, 0, 0),  # 1.5 MiB are, below 20 MiB
        (220.5, 0, 1.5),
        (251, 1, 1),
        (56, 0, 0),
        (9.5, 0, 0),  # several weights share a segment
    ],
)
def test_ends_of_whole_2_mib(size: float, splitting: float, not_splitting: float) -> None:
    model = model_with(size)
    assert allocator_rounding(model, 1, 0) / MIB == splitting
    assert allocator_rounding(model, 1, _20_MIB) / MIB == not_splitting


def test_blocks_that_tables_leave_are_not_split_either() -> None:
    """A table of 32 MiB in bf16 leaves two blocks of 32 MiB and one of 64."""
    table = (RopeSpec(128, 131_072),)
    # 20 MiB fit both of 32 MiB; nothing else may take the one of 64 MiB.
    assert allocator_rounding(model_with(20, 20, 20, ropes=table), 1, _20_MIB) / MIB == 24
    assert allocator_rounding(model_with(20, 56, ropes=table), 1, _20_MIB) / MIB == 12 + 8
    assert allocator_rounding(model_with(16, 120, ropes=table), 1, _20_MIB) == 0
    assert allocator_rounding(model_with(20, 56, ropes=table), 1, 0) == 0


def test_projections_are_the_tensors_that_the_engine_has() -> None:
    gate, up = (
        WeightTensor(f"layers.*.mlp.{name}_proj", WeightPart.DENSE_MLP, (2688, 5376), copies=62)
        for name in ("gate", "up")
    )
    model = replace(model_with(), weights=(gate, up))
    assert allocator_rounding(model, 1, 0) == 62 * 0.875 * MIB


def test_weights_in_fewer_bits_are_left_out() -> None:
    weight = WeightTensor(
        "layers.*.w", WeightPart.DENSE_MLP, (int(55.125 * MIB),), quant=QuantSpec("fp8", 8, 0, 0)
    )
    assert allocator_rounding(replace(model_with(), weights=(weight,)), 1, 0) == 0
