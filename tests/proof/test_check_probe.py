"""Ten questions to a server of the recall checkpoint, and what wrong answers point to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import farspan
from farspan.cli.main import group
from farspan.errors import InputError
from farspan.proof.check_probe import QUESTIONS, CheckedAnswer, choose_questions, judge_answers
from scripted import Script, serve_in_thread

CHUNK = 8192


@pytest.mark.parametrize("longest", [200, 3000, 8192, 16_000, 16_384, 131_072, 10_000_000])
def test_ten_questions_grow_to_the_longest(longest: int) -> None:
    asked = choose_questions(longest, CHUNK)
    lengths = [context for context, _ in asked]
    assert len(asked) == QUESTIONS
    assert lengths == sorted(lengths)
    assert lengths[0] == 200
    assert longest - 1 <= lengths[-1] <= longest
    assert all(0 <= depth <= 1 for _, depth in asked)
    with pytest.raises(InputError, match="too few"):
        choose_questions(100, CHUNK)


def judge(scores: list[float | None]) -> str:
    asked = choose_questions(1_000_000, CHUNK)
    return judge_answers(
        [CheckedAnswer(*one, score) for one, score in zip(asked, scores, strict=True)], CHUNK
    )[0]


@pytest.mark.parametrize(
    ("scores", "broken"),
    [
        ([1.0] * 10, ""),
        ([0.0] * 10, "weights or rotary embedding"),
        ([1.0, 0.0, 1.0, *[1.0] * 7], "heads or KV dtype"),
        ([1.0, 1.0, 1.0, 1.0, *[0.0] * 6], "the full-attention layer or its page table"),
        ([*[1.0] * 7, 0.5, 0.5, 0.0], "KV dtype"),
        ([*[1.0] * 7, 0.0, 0.0, 0.0], "the page table or the position table"),
        ([*[1.0] * 6, 0.0, 1.0, 1.0, 1.0], "the page table"),
        ([*[1.0] * 9, None], "the server"),
    ],
)
def test_patterns_of_wrong_answers(scores: list[float | None], broken: str) -> None:
    assert judge(scores) == broken


def test_servers_right_and_wrong(tmp_path: Path) -> None:
    with serve_in_thread() as server:
        server.script = Script(recall=True)
        server.card = {"id": "recall", "owned_by": "vllm", "max_model_len": 20_000}
        checked = farspan.probe(check=server.url, output=tmp_path / "run")
        assert checked.good
        assert len(checked.answers) == QUESTIONS
        assert checked.answers[-1].context == 20_000 - 16
        assert (tmp_path / "run" / "requests.jsonl").exists()
        server.script = Script(reply="Wrong ")
        done = CliRunner().invoke(
            group, ["probe", "--check", server.url, "--max-context", "1000", "--json"], standalone_mode=False
        )
        assert done.return_value == 1
        assert json.loads(done.stdout)["broken"] == "weights or rotary embedding"
        shown = CliRunner().invoke(
            group, ["probe", "--check", server.url, "--max-context", "1000"], standalone_mode=False
        )
        assert "Points to weights or rotary embedding: not even within" in shown.stdout
    assert CliRunner().invoke(group, ["probe"], standalone_mode=False).exception is not None


def test_a_real_engine_whose_queries_are_not_permuted_for_rotary_embedding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = farspan.probe(tmp_path / "recall", heads=2, kv_heads=2).folder
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    heads = weights[name].view(2, 64, -1)
    weights[name] = torch.cat([heads[:, 1::2], heads[:, ::2]], 1).reshape(weights[name].shape).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    server = farspan.serve(str(folder), engine="builtin", runtime="local", gpus="none", context="10k", port=0)
    try:
        checked = farspan.probe(check=server.url, max_context=9000)
    finally:
        farspan.stop(server.record.name)
    assert not any(answer.right for answer in checked.answers)
    assert checked.broken == "weights or rotary embedding"
