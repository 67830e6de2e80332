"""Kernels tried in another process, which may fault, hang or never start."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dummy_models import write_config
from farspan.builtin.kernels import choose_operations as choosing
from farspan.builtin.kernels import trial, trial_program
from farspan.builtin.kernels.operations import Operations
from farspan.builtin.kernels.trial import try_kernels
from farspan.builtin.model_config import read_config

CPU = torch.device("cpu")
# A device on which `heads` kills its process and `join` hangs; what is left out is not tried.
FAULTY = """
import json, os, sys, time
def say(**words):
    print(json.dumps(words), flush=True)
print("some library says hello")
for name in ("add_norm", "heads", "join", "route"):
    if name in sys.argv[4:]:
        continue
    say(trying=name)
    if name == "heads":
        os.kill(os.getpid(), 9)
    if name == "join":
        time.sleep(60)
    say(tried=name, problem="it is off by 1" if name == "route" else "")
say(finished=True)
"""


def program(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(trial, "_command", lambda: [sys.executable, "-c", text])


def test_a_fault_ends_the_process_that_tries_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(monkeypatch, FAULTY)
    monkeypatch.setattr(trial, "_LIMIT_S", 3.0)
    assert try_kernels(tmp_path, CPU, torch.float32) == {
        "heads": "it ended the process that tried it (-9)",
        "join": "it does not end",
        "route": "it is off by 1",
    }


def test_a_trial_that_cannot_start_refuses_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program(monkeypatch, "raise SystemExit(1)")
    assert try_kernels(tmp_path, CPU, torch.float32) is None
    folder = write_config(tmp_path / "rank")
    with caplog.at_level(logging.WARNING):
        chosen = choosing.choose_operations(folder, read_config(folder), torch.device("meta"), torch.float32)
    assert type(chosen) is Operations
    assert "decoding without CUDA graphs: no kernel could be tried" in caplog.text


def test_the_program_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Interpreted, as the tests beside this one have it; what Triton's interpreter cannot do is refused by name."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    refused = try_kernels(write_config(tmp_path / "rank"), CPU, torch.float32)
    assert refused is not None
    assert set(refused) <= {"attend_pages", "write_heads"}


@pytest.mark.parametrize(
    ("moe", "left_out", "tried"),
    [
        (True, [], ["cudnn_attention", "grouped_product"]),
        (True, ["cudnn_attention"], ["grouped_product"]),
        (False, [], ["cudnn_attention"]),
    ],
)
def test_libraries_are_tried_on_a_gpu_where_the_model_uses_them(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    moe: bool,
    left_out: list[str],
    tried: list[str],
) -> None:
    config = read_config(write_config(tmp_path / "rank"))
    config = replace(config, layers=tuple(replace(layer, moe=moe) for layer in config.layers))
    called = []
    monkeypatch.setattr(trial_program, "read_config", lambda _: config)
    for name in ("TritonOperations", "Operations"):
        monkeypatch.setattr(trial_program, name, lambda *_: None)
    monkeypatch.setattr(trial_program, "list_checks", lambda *_: ())
    monkeypatch.setattr(trial_program, "cudnn_is_right", lambda *_: called.append("cudnn_attention"))
    monkeypatch.setattr(trial_program, "grouped_product_works", lambda *_: called.append("grouped_product"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    assert trial_program.main(tmp_path, torch.device("cuda"), torch.bfloat16, left_out) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    lines = [line for name in tried for line in ({"trying": name}, {"tried": name})]
    assert said == [*lines, {"finished": True}]
    assert called == tried
