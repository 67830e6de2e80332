"""Each operation is tried beside torch's, and a whole engine runs on those of Triton."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from dummy_models import write_config
from farspan.builtin import model as model_module
from farspan.builtin.engine import EngineOptions, InferenceEngine
from farspan.builtin.kernels.choose_operations import choose_operations, replace_refused
from farspan.builtin.kernels.operation_checks import find_problem, list_checks
from farspan.builtin.kernels.operations import Operations
from farspan.builtin.kernels.triton_operations import TritonOperations
from farspan.builtin.load_weights import LoadFormat
from farspan.builtin.model import LlamaModel
from farspan.builtin.model_config import read_config
from farspan.builtin.sampling_params import SamplingParams
from farspan.builtin.scheduler import Request
from farspan.kv.kv_options import KVOptions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(
        tmp_path_factory.mktemp("models") / "rank", num_hidden_layers=2, no_rope_layer_interval=2
    )


def test_a_cpu_has_torchs_own(folder: Path) -> None:
    assert type(choose_operations(folder, read_config(folder), CPU, torch.float32)) is Operations


def test_what_is_wrong_or_fails_is_found(folder: Path) -> None:
    config = read_config(folder)
    operations = TritonOperations(config, CPU)
    checks = {check.name: check for check in list_checks(config, torch.float32, CPU)}

    def problem(name: str, instead: object = None) -> str | None:
        if instead is not None:
            setattr(operations, name, instead)
        return find_problem(checks[name], operations, Operations(config, CPU))

    assert problem("silu_mul") is None
    assert problem("join") is None
    assert problem("add_norm") is None

    def wrong(gate_up: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        return Operations(config, CPU).silu_mul(gate_up, scale) * 1.5

    def broken(*given: object) -> torch.Tensor:
        raise RuntimeError("PassManager::run failed\nno such instruction")

    said = problem("silu_mul", wrong)
    assert said is not None
    assert said.startswith("it is off by")
    assert problem("attend_pages", broken) == "PassManager::run failed no such instruction"


def test_what_is_refused_is_replaced_and_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = read_config(folder)
    operations = TritonOperations(config, CPU)
    with caplog.at_level(logging.WARNING):
        replace_refused(operations, {"silu_mul": "it is off", "attend_pages": "misaligned address"})
    assert "attend_pages runs as torch's own operations: misaligned address" in caplog.text
    assert not operations.paged
    assert operations.few_rows > 0
    gate_up = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(operations.silu_mul(gate_up), Operations(config, CPU).silu_mul(gate_up))


def answers(folder: Path) -> list[list[int]]:
    model = LlamaModel(folder, load_format=LoadFormat.DUMMY)
    engine = InferenceEngine(
        model, EngineOptions(kv=KVOptions(capacity_gib=0.25, page_tokens=8), max_num_batched_tokens=64)
    )
    generator = np.random.default_rng(3)
    requests = [
        Request(
            str(length),
            generator.integers(0, 97, length).astype(np.int32),
            SamplingParams(max_tokens=5, temperature=0, ignore_eos=True),
        )
        for length in (24, 3)
    ]
    for request in requests:
        engine.add(request)
    while engine.has_work:
        engine.step()
    engine.close()
    return [request.output for request in requests]


def test_an_engine_on_the_kernels_answers_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = answers(folder)
    monkeypatch.setattr(
        model_module, "choose_operations", lambda _, config, device, __: TritonOperations(config, device)
    )
    assert answers(folder) == plain
