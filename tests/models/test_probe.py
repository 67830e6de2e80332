"""The recall checkpoint: its codes, its margin, its files, and that transformers itself reads needles with it."""

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, Llama4ForCausalLM

from farspan.errors import InputError
from farspan.models.probe import (
    KV_ROUNDING,
    ProbeDesign,
    copy_leak,
    longest_recall,
    recall_margin,
    required_margin,
    write_probe,
)
from farspan.models.probe.codes import correlation_bound, gold_codes
from farspan.models.probe.constructed_weights import probe_tensors
from recall_prompts import WORDS, recall_prompt

TEN_MILLION = 10_000_000
NUMPY_TYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "fp8_e4m3": ml_dtypes.float8_e4m3fn}


@pytest.mark.parametrize(("length", "count"), [(64, 4096), (128, 4096)])
def test_codes_stay_within_their_bound_and_reach_it(length: int, count: int) -> None:
    codes = gold_codes(count, length).astype(np.float32)
    assert set(np.unique(codes)) == {-1.0, 1.0}
    correlation = np.abs(codes @ codes.T) / length
    np.fill_diagonal(correlation, 0)
    assert correlation.max() == correlation_bound(length)


def test_codes_of_other_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="no codes of length 96; use a head dimension of 64 or 128"):
        gold_codes(10, 96)
    with pytest.raises(InputError, match="do not exist"):
        gold_codes(4097, 64)


@pytest.mark.parametrize("kv_dtype", list(KV_ROUNDING))
@pytest.mark.parametrize("head_dim", [64, 128])
def test_margin_holds_for_ten_million_keys(kv_dtype: str, head_dim: int) -> None:
    design = ProbeDesign(head_dim=head_dim)
    assert recall_margin(design, kv_dtype) > required_margin(TEN_MILLION) + 10
    assert longest_recall(design, kv_dtype) > TEN_MILLION
    with pytest.raises(InputError, match="unknown KV dtype"):
        recall_margin(design, "int3")


def test_required_margin_leaves_the_right_key_its_share() -> None:
    lead = required_margin(TEN_MILLION)
    share = 1 / (1 + (TEN_MILLION - 1) * math.exp(-lead))
    assert 0.999 < share < 0.9992


@pytest.mark.parametrize("kv_dtype", list(KV_ROUNDING))
def test_margin_formula_is_a_bound_on_what_the_weights_give(kv_dtype: str) -> None:
    """Score every kind of wrong key against every query from the checkpoint's own bf16 weights."""
    design = ProbeDesign(num_attention_heads=2, num_key_value_heads=1)
    d = design.head_dim
    tensors = {n: t.astype(ml_dtypes.bfloat16).astype(np.float32) for n, t in probe_tensors(design).items()}
    attention = "model.layers.3.self_attn."
    code = tensors["model.embed_tokens.weight"][:, :d]
    # What layer 3 reads: A and B as layer 0 leaves them, in bf16, with the copy's leak taken off.
    copied = (code * (1 - copy_leak(design))).astype(ml_dtypes.bfloat16).astype(np.float32)
    query_weight, key_weight = tensors[attention + "q_proj.weight"], tensors[attention + "k_proj.weight"]
    stored = NUMPY_TYPES[kv_dtype]
    query = (code @ query_weight[:d, :d].T).astype(stored).astype(np.float32)
    # Keys are B - A rounded as a whole; with entries of 0 and of one magnitude, the parts can be scored apart.
    random = np.random.default_rng(1)
    previous, own = random.integers(0, design.vocab_size, (2, 20_000))
    key = copied[previous] @ key_weight[:, d : 2 * d].T + code[own] @ key_weight[:, :d].T
    key = key.astype(stored).astype(np.float32)
    worst = np.inf
    for token in random.choice(design.vocab_size, 64, replace=False):
        right = copied[np.full(500, token)] @ key_weight[:, d : 2 * d].T
        right = (right + code[own[:500]] @ key_weight[:, :d].T).astype(stored).astype(np.float32)
        scores = right[own[:500] != token] @ query[token] / math.sqrt(d)
        wrong = key[previous != token] @ query[token] / math.sqrt(d)
        worst = min(worst, scores.min() - wrong.max())
    assert worst >= recall_margin(design, kv_dtype)
    # and not by luck of a loose bound: the worst of these random keys is within a factor of two of it
    assert worst <= 2 * recall_margin(design, kv_dtype)


def layer_0_scores(
    design: ProbeDesign, layout: str, queries: torch.Tensor, keys: torch.Tensor
) -> torch.Tensor:
    """Scores of layer 0's first head as an engine computes them: float32 angles, bf16 tables, in one of the layouts."""
    weights, d = probe_tensors(design), design.head_dim
    constant = design.constant * math.sqrt(4 / 3)  # as RMSNorm hands it on
    pairs = (
        (torch.arange(0, d, 2), torch.arange(1, d, 2))
        if layout == "interleaved"
        else (torch.arange(d // 2), torch.arange(d // 2, d))
    )
    frequencies = torch.from_numpy(design.rope_frequencies()).float()

    def turned(name: str, positions: torch.Tensor) -> torch.Tensor:
        row = torch.from_numpy(weights[f"model.layers.0.self_attn.{name}.weight"][:d].sum(axis=1)) * constant
        angle = positions.float()[:, None] * frequencies
        table = torch.complex(angle.cos().bfloat16().float(), angle.sin().bfloat16().float())
        return table * torch.complex(row[pairs[0]], row[pairs[1]])

    return (turned("q_proj", queries) @ turned("k_proj", keys).conj().T).real / math.sqrt(d)


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("chunk", [8192, 131072])
def test_previous_token_head_survives_float32_angles_at_ten_million(
    chunk: int, head_dim: int, layout: str
) -> None:
    """Angles are float32 products in every engine: near 10M they are off by up to half a radian."""
    design = ProbeDesign(attention_chunk_size=chunk, head_dim=head_dim)
    start = TEN_MILLION // chunk * chunk
    end = min(TEN_MILLION, start + chunk)
    positions = torch.arange(start, end)
    sample = torch.arange(1, len(positions), max(1, len(positions) // 2000))
    scores = layer_0_scores(design, layout, positions[sample], positions)
    index = torch.arange(len(positions))
    scores[index[None, :] > sample[:, None]] = -torch.inf
    share = torch.softmax(scores, dim=1)[torch.arange(len(sample)), sample - 1]
    assert (scores.argmax(1) == sample - 1).all()
    assert share.min() > 0.999


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
def test_what_leaks_past_the_previous_token_is_no_more_than_stated(layout: str) -> None:
    design = ProbeDesign()
    positions = torch.arange(design.attention_chunk_size)
    scores = layer_0_scores(design, layout, positions[-1:], positions)[0].double()
    share = torch.softmax(scores, dim=0)
    # The angles of the first chunk are nearly exact; the tables are bf16.
    assert 1 - share[-2] < 1e-12 > copy_leak(design)


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
def test_usual_theta_would_fail_there(layout: str) -> None:
    """Why rope_theta is 2: the usual frequencies with the same gain blur neighbours at 10M."""
    design = ProbeDesign(rope_theta=500_000.0)
    positions = torch.arange(TEN_MILLION - 4096, TEN_MILLION)
    scores = layer_0_scores(design, layout, positions, positions)
    lead = scores.diagonal(-1) - scores.diagonal()[1:]
    assert lead.min() < 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_key_value_heads": 3}, "3 KV heads do not divide 8"),
        ({"num_attention_heads": 24, "num_key_value_heads": 8}, "do not divide a code of 64"),
        ({"num_hidden_layers": 6}, "multiple of 4"),
        ({"head_dim": 80}, "head dimension of 64 or 128"),
        ({"attention_chunk_size": 1}, "attention_chunk_size is 1"),
        ({"num_local_experts": -1}, "use 0 for dense"),
    ],
)
def test_impossible_designs_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ProbeDesign(**changes)  # type: ignore[arg-type]


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "grouped queries": {"num_attention_heads": 8, "num_key_value_heads": 2},
    "experts": {"num_local_experts": 4, "num_attention_heads": 4, "num_key_value_heads": 4},
    "long heads": {"head_dim": 128, "num_attention_heads": 4, "num_key_value_heads": 4},
    "eight layers": {"num_hidden_layers": 8, "num_attention_heads": 2, "num_key_value_heads": 2},
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in VARIANTS] + [("default", torch.bfloat16), ("experts", torch.bfloat16)],
)
def test_transformers_recalls(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    chunk = 128
    folder = write_probe(tmp_path / "probe", attention_chunk_size=chunk, **VARIANTS[name]).folder
    model = Llama4ForCausalLM.from_pretrained(folder, dtype=dtype)
    for depth in (0.0, 0.5, 1.0):
        prompt, answer = recall_prompt(500, depth, chunk=chunk)
        assert greedy(model, prompt, len(answer)) == answer, depth


def greedy(model: Llama4ForCausalLM, prompt: Any, count: int) -> list[int]:
    ids = torch.from_numpy(prompt.astype("int64"))[None]
    out = model.generate(ids, max_new_tokens=count, do_sample=False)
    return [int(token) for token in out[0, len(prompt) :]]


def test_transformers_recalls_across_scout_sized_chunks(tmp_path: Path) -> None:
    folder = write_probe(tmp_path / "probe", num_attention_heads=1, num_key_value_heads=1).folder
    model = Llama4ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt, answer = recall_prompt(9000, 0.02)
    assert greedy(model, prompt, len(answer)) == answer


@pytest.mark.parametrize("part", ["q_proj", "k_proj", "v_proj"])
@pytest.mark.parametrize("heads", [8, 2])
def test_every_head_matters(heads: int, part: str, tmp_path: Path) -> None:
    """A rank that loses a head, or takes one for another, must not get away with it."""
    folder = write_probe(tmp_path / "probe", num_attention_heads=heads, num_key_value_heads=heads).folder
    model = Llama4ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt, answer = recall_prompt(150, 0.4, answer_words=16)
    assert greedy(model, prompt, 16) == answer
    weight = getattr(model.model.layers[3].self_attn, part).weight
    whole = weight.detach().clone()
    for head in range(heads):
        for damaged in (lost(whole, heads, head), swapped(whole, heads, head, (head + 1) % heads)):
            with torch.no_grad():
                weight.copy_(damaged)
            assert greedy(model, prompt, 16) != answer, head
    with torch.no_grad():
        weight.copy_(whole)
    assert greedy(model, prompt, 16) == answer


def lost(weight: torch.Tensor, heads: int, head: int) -> torch.Tensor:
    parts = weight.reshape(heads, -1, weight.shape[1]).clone()
    parts[head] = 0
    return parts.reshape(weight.shape)


def swapped(weight: torch.Tensor, heads: int, head: int, other: int) -> torch.Tensor:
    parts = weight.reshape(heads, -1, weight.shape[1]).clone()
    parts[[head, other]] = parts[[other, head]]
    return parts.reshape(weight.shape)


def test_folder_is_a_standard_checkpoint(tmp_path: Path) -> None:
    made = write_probe(tmp_path / "probe", max_position_embeddings=TEN_MILLION, attention_chunk_size=4096)
    names = {file.name for file in made.folder.iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "recall.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert made.size_bytes == sum(file.stat().st_size for file in made.folder.iterdir()) < 12e6
    config = AutoConfig.from_pretrained(made.folder)
    assert config.model_type == "llama4_text"
    assert config.max_position_embeddings == TEN_MILLION
    assert config.attention_chunk_size == 4096
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 2.0}
    recall = json.loads((made.folder / "recall.json").read_text())
    assert recall["needle_ids"] == [WORDS.needle_ids.start, WORDS.needle_ids.stop]
    assert recall["attention_chunk_size"] == 4096


def test_tokenizer_is_one_word_one_token(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_probe(tmp_path / "probe").folder)
    ids = [*WORDS.haystack_ids, *WORDS.needle_ids]
    text = tokenizer.decode(ids)
    assert tokenizer(text, add_special_tokens=False).input_ids == ids
    assert tokenizer(text).input_ids == [WORDS.bos_token_id, *ids]
    assert len(set(WORDS.tokens)) == len(WORDS.tokens) == 4096
    assert all(WORDS.tokens[i].islower() for i in WORDS.haystack_ids)
    assert all(WORDS.tokens[i].istitle() for i in WORDS.needle_ids)


def test_chat_template_ends_with_the_users_last_word(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_probe(tmp_path / "probe").folder)
    key = WORDS.tokens[WORDS.needle_ids.start]
    for content in (f"roka {key}", [{"type": "text", "text": f"roka {key}"}]):
        ids = tokenizer.apply_chat_template(
            [{"role": "system", "content": "roka"}, {"role": "user", "content": content}],
            add_generation_prompt=True,
        )["input_ids"]
        assert ids[0] == WORDS.bos_token_id
        assert ids.count(WORDS.bos_token_id) == 1
        assert ids[-1] == WORDS.needle_ids.start


def test_writing_is_repeatable_and_replaces_only_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "probe"
    write_probe(folder)
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    write_probe(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first
    assert list(tmp_path.iterdir()) == [folder]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not a recall checkpoint"):
        write_probe(precious)
    assert (precious / "thesis.txt").read_text() == "years of work"
    with pytest.raises(InputError, match="cannot write"):
        write_probe("/proc/nowhere/probe")
