"""Speculative decoding in SGLang: what the draft takes, and what the pool becomes, version by version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan.errors import InputError, UnsupportedError
from farspan.models.config import load_model
from farspan.models.weights import rank_weight_bytes
from farspan.planner.request import EnginePlan
from farspan.sizes import GIB
from planned import plan_on

_HEAD = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "num_hidden_layers": 1,
    "draft_vocab_size": 32000,
}
# Queries, output, keys and values, MLP, the projection of three states, the output head.
_HEAD_VALUES = 4096 * (8192 + 4096 + 2 * 2048 + 3 * 14336 + 3 * 4096 + 32000)


def planned(model: str, gpus: str, version: str, *flags: str) -> EnginePlan:
    return plan_on("sglang", version, load_model(model), gpus, 32_768, *flags)


def line(plan: EnginePlan, name: str) -> int:
    return sum(one.bytes for one in plan.ledger.allocations if one.name == name)


def tokens(plan: EnginePlan) -> int:
    size = plan.printed["max_total_num_tokens"]
    assert isinstance(size, int)
    return size


@pytest.fixture
def head(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "config.json").write_text(json.dumps(_HEAD), "utf-8")
    return ("--speculative-algorithm", "EAGLE3", "--speculative-draft-model-path", str(tmp_path))


@pytest.mark.parametrize("version", ["0.5.6.post2", "0.5.12", "0.5.16", "0.5.23"])
def test_a_head_has_weights_and_kv_of_its_own(head: tuple[str, ...], version: str) -> None:
    plan = planned("llama-3.1-8b", "1xH100", version, *head)
    assert line(plan, "Draft: weights") == pytest.approx(2 * _HEAD_VALUES, rel=0.001)
    assert line(plan, "Draft: KV pool") == (tokens(plan) + 1) * 2 * 8 * 128 * 2
    assert plan.printed["max_running_requests"] == 48
    assert any("accepted" in note for note in plan.notes)


def test_the_pool_knows_of_the_draft_from_0_5_14(head: tuple[str, ...]) -> None:
    fraction = ("--mem-fraction-static", "0.8")
    for version, counted in (("0.5.13", False), ("0.5.14", True)):
        alone = tokens(planned("llama-3.1-8b", "1xH100", version, *fraction))
        beside = planned("llama-3.1-8b", "1xH100", version, *fraction, *head)
        if not counted:
            assert tokens(beside) == alone
            continue
        cell, copies = 32 * 2 * 8 * 128 * 2, 128_256 * 4096 * 2
        budget = alone * cell - line(beside, "Draft: weights") - copies
        assert tokens(beside) == pytest.approx(budget / (cell * 33 / 32), rel=1e-5)


def test_older_pools_are_widened_for_what_is_drafted(head: tuple[str, ...]) -> None:
    fraction = ("--mem-fraction-static", "0.8", "--max-running-requests", "10")
    alone = tokens(planned("llama-3.1-8b", "1xH100", "0.5.6.post2", *fraction))
    beside = tokens(planned("llama-3.1-8b", "1xH100", "0.5.6.post2", *fraction, *head))
    assert beside == alone + 10 * (5 * 4 + 8) + 100  # five steps of four branches, eight verified


def test_the_default_fraction_leaves_room_where_the_draft_is_not_counted(head: tuple[str, ...]) -> None:
    free = []
    for flags in ((), head):
        plan = planned("llama-3.1-8b", "1xH100", "0.5.12", "--max-running-requests", "48", *flags)
        free.append(line(plan, "KV pool"))
    assert (free[0] - free[1]) / GIB == pytest.approx(4.0, abs=0.1)


def test_a_draft_layer_inside_the_checkpoint_is_as_large_as_the_others() -> None:
    plan = planned("deepseek-v3", "8xH200", "0.5.16", "--speculative-algorithm", "NEXTN")
    # 61 layers hold 671B less embedding and output head; FP8, and a projection of two widths.
    assert line(plan, "Draft: weights") * 8 / 1e9 == pytest.approx(11.2, abs=0.3)
    with pytest.raises(InputError, match="needs a draft"):
        planned("llama-3.1-8b", "1xH100", "0.5.16", "--speculative-algorithm", "EAGLE3")


def test_a_draft_model_keeps_everything_of_its_own() -> None:
    flags = ("--speculative-algorithm", "STANDALONE", "--speculative-draft-model-path", "qwen3-0.6b")
    plan = planned("qwen3-32b", "2xH100", "0.5.16", *flags)
    assert line(plan, "Draft: weights") == rank_weight_bytes(load_model("qwen3-0.6b"), 2).total
    assert line(plan, "Draft: KV pool") == (tokens(plan) + 1) * 28 * 2 * 4 * 128 * 2
    with pytest.raises(InputError, match="vocabulary"):
        planned("llama-3.1-8b", "1xH100", "0.5.16", *flags)


def test_ngrams_take_nothing_but_columns() -> None:
    fraction = ("--mem-fraction-static", "0.8", "--max-running-requests", "48")
    alone = planned("llama-3.1-8b", "1xH100", "0.5.16", *fraction)
    beside = planned("llama-3.1-8b", "1xH100", "0.5.16", *fraction, "--speculative-algorithm", "NGRAM")
    assert tokens(beside) == tokens(alone)
    name = "Request-to-token table"
    assert line(beside, name) - line(alone, name) == 49 * 12 * 4


@pytest.mark.parametrize(
    ("model", "flags", "words"),
    [
        ("llama-3.1-8b", ("--speculative-algorithm", "DFLASH"), "in a way farspan does not mirror"),
        ("qwen3.5-27b", ("--speculative-algorithm", "NGRAM"), "recurrent state for every drafted token"),
        (
            "llama-3.1-8b",
            ("--speculative-algorithm", "STANDALONE", "--speculative-draft-model-path", "no/such"),
            "neither in the catalog nor on this machine",
        ),
        (
            "llama-3.1-8b",
            ("--speculative-algorithm", "NGRAM", "--dp-size", "1", "--speculative-token-map", "map.pt"),
            "fewer words",
        ),
        (
            "deepseek-v3",
            ("--speculative-algorithm", "NEXTN", "--enable-dp-attention", "--dp-size", "8"),
            "data-parallel attention",
        ),
    ],
)
def test_what_is_not_mirrored_is_refused_by_name(model: str, flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        planned(model, "8xH200", "0.5.16", *flags)


def test_steps_without_branches_are_refused(head: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="together or not at all"):
        planned("llama-3.1-8b", "1xH100", "0.5.16", *head, "--speculative-num-steps", "3")
