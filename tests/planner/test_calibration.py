"""Calibrations of this machine: fitted, kept, found by their conditions, and said where they are used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

import farspan
from farspan.cli.main import group
from farspan.errors import InputError, UnsupportedError
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.models.spec import KvDtype
from farspan.planner.answers import PlanAnswer
from farspan.planner.calibration import Calibration
from farspan.planner.calibration_fit import fit_decode, fit_prefill_shares
from farspan.planner.calibration_store import calibration_path, load_calibrations, save_calibration
from farspan.planner.document import PlanDocument, SinglePlan
from farspan.planner.prefill_fit import PrefillPoint
from farspan.planner.timing import estimate_time, prefill_seconds
from farspan.planner.timing_fits import FITS
from farspan.sizes import GIB

MEASURED = Calibration(
    engine="vllm",
    version="0.24.0",
    backend="",
    kv="bf16",
    gpu="H200",
    eager=False,
    experts=True,
    date="2026-12-01",
    model="one rank of llama-4-scout at TP 8",
    runs="3 prompts of 65,536 to 1,048,576 tokens",
    linear=0.30,
    attention=0.80,
    decode=0.5,
    step_s=0.004,
    outside_torch_bytes=GIB // 2,
    graphs_share=1.5,
)


@pytest.fixture
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path


def _plan(**options: object) -> PlanAnswer:
    settings = {"gpus": "8xH200", "engine": "vllm", "engine_version": "0.24.0", "context": "1M", **options}
    answer = farspan.plan("llama-4-scout", **settings)
    assert isinstance(answer, PlanAnswer)
    return answer


def test_kept_and_read_again(data_home: Path) -> None:
    assert load_calibrations() == ()
    path = save_calibration(MEASURED)
    assert path == data_home / "farspan" / "calibration.json" == calibration_path()
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_calibrations() == (MEASURED,)
    newer = MEASURED._replace(date="2026-12-02", linear=0.35)
    other = MEASURED._replace(kv="fp8")
    save_calibration(other)
    save_calibration(newer)
    assert set(load_calibrations()) == {newer, other}
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    document = json.loads(path.read_bytes())
    assert document["format_version"] == 1


def test_without_the_conditions_nothing_changes(data_home: Path) -> None:
    before = _plan().to_json()
    for other in (
        MEASURED._replace(version="0.12.0"),
        MEASURED._replace(kv="fp8"),
        MEASURED._replace(gpu="H100"),
        MEASURED._replace(eager=True),
        MEASURED._replace(backend="flashinfer"),
        MEASURED._replace(engine="sglang"),
    ):
        save_calibration(other)
    assert _plan().to_json() == before
    assert data_home.exists()


def test_a_plan_uses_it_and_says_so(data_home: Path) -> None:
    plain = _plan()["vllm"]
    save_calibration(MEASURED)
    answer = _plan()
    plan = answer["vllm"]
    assert plan.calibration == MEASURED
    assert plan.time is not None
    assert plain.time is not None
    assert plan.time.calibrated
    assert plan.time.fitted
    assert plan.time.basis.startswith("calibrated on this machine, 2026-12-01: 3 prompts")
    # One rank pays no collectives: a deployment of eight does.
    assert "collectives" in {term.name for term in plan.time.terms}
    assert plan.available_kv_bytes == plain.available_kv_bytes - GIB // 2
    assert plan.ledger["CUDA graphs"].bytes == pytest.approx(
        1.5 * plain.ledger["CUDA graphs"].bytes, rel=1e-6
    )
    line = plan.ledger["kernels and workspaces outside torch"]
    assert line.source == "calibrated on this machine, 2026-12-01"
    assert "+0.50 GiB as measured" in line.formula
    assert plan.notes[0].startswith(
        "Calibrated on this machine, 2026-12-01, by one rank of llama-4-scout at TP 8"
    )

    written = orjson.loads(orjson.dumps(answer.to_json()))
    assert written["engines"]["vllm"]["calibration"]["date"] == "2026-12-01"
    read = PlanDocument.from_json(written)
    assert isinstance(read, SinglePlan)
    assert read.to_json() == written
    found = read.plans["vllm"].calibration
    assert found is not None
    assert found.conditions == "vllm 0.24.0 bf16 KV on H200 with experts"
    assert any("CUDA graphs 1.50" in what for what in found.fitted)
    assert data_home.exists()


def test_no_calibration_leaves_it_out(data_home: Path) -> None:
    before = _plan().to_json()
    save_calibration(MEASURED)
    assert _plan(no_calibration=True).to_json() == before
    assert data_home.exists()


def test_the_command_line(data_home: Path) -> None:
    save_calibration(MEASURED)
    words = ["plan", "llama-4-scout", "--gpus", "8xH200", "--engine", "vllm", "--engine-version", "0.24.0"]
    said = CliRunner().invoke(group, [*words, "--context", "1M"])
    assert "calibrated on this machine, 2026-12-01" in " ".join(said.output.split())
    assert ", calibrated)" in said.output.replace("\n", " ")
    without = CliRunner().invoke(group, [*words, "--context", "1M", "--no-calibration"])
    assert "alibrated" not in without.output
    swept = CliRunner().invoke(group, [*words, "--contexts", "128k,1M"])
    assert "Calibrated on this machine" in swept.output
    sweep = PlanDocument.from_json(
        orjson.loads(CliRunner().invoke(group, [*words, "--contexts", "128k", "--json"]).output)
    )
    assert sweep.parts[0].answers_of("vllm")[0].calibration is not None
    assert data_home.exists()


def test_sglang_and_builtin_use_theirs(data_home: Path) -> None:
    plain = farspan.plan("llama-4-scout", gpus="8xH200", engine="sglang", context="1M")
    assert isinstance(plain, PlanAnswer)
    conditions = plain["sglang"].conditions
    assert conditions is not None
    assert conditions.backend
    save_calibration(MEASURED._replace(**conditions._asdict()))
    plan = farspan.plan("llama-4-scout", gpus="8xH200", engine="sglang", context="1M")
    assert isinstance(plan, PlanAnswer)
    sglang = plan["sglang"]
    assert sglang.calibration is not None
    assert sglang.available_kv_bytes == plain["sglang"].available_kv_bytes - GIB // 2
    assert sglang.ledger["Other load-time buffers"].source.startswith("calibrated")
    small = farspan.plan("llama-3.1-8b", gpus="1xH200", engine="builtin", context="64k")
    assert isinstance(small, PlanAnswer)
    own = small["builtin"].conditions
    assert own is not None
    save_calibration(MEASURED._replace(**own._asdict()))
    again = farspan.plan("llama-3.1-8b", gpus="1xH200", engine="builtin", context="64k")
    assert isinstance(again, PlanAnswer)
    assert again["builtin"].calibration is not None
    assert data_home.exists()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[]", "has no format_version"),
        (b'{"format_version": true}', "has no format_version"),
        (b'{"format_version": 1}', "has no list of calibrations"),
        (b'{"format_version": 1, "calibrations": [7]}', r"calibrations\[0\] is not an object"),
        (
            b'{"format_version": 1, "calibrations": [{}]}',
            r"calibrations\[0\].engine is not what farspan writes",
        ),
        (b" " * (2**20 + 1), "larger than farspan writes it"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(data_home: Path, content: bytes, fault: str) -> None:
    path = data_home / "farspan" / "calibration.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(InputError, match=fault) as raised:
        load_calibrations()
    assert "\n" not in str(raised.value)
    assert "--no-calibration" in str(raised.value)
    with pytest.raises(InputError):
        _plan()
    assert _plan(no_calibration=True).fits


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("linear", 1.5),
        ("linear", 0),
        ("attention", "0.5"),
        ("decode", -0.1),
        ("step_s", float("nan")),
        ("outside_torch_bytes", 0.5),
        ("outside_torch_bytes", 2**60),
        ("graphs_share", True),
        ("eager", 1),
        ("experts", 1),
        ("ranks", None),
        ("date", "yesterday"),
        ("model", "\x1b[31mred"),
        ("runs", "x" * 1000),
    ],
)
def test_a_figure_that_cannot_be_is_refused(data_home: Path, name: str, value: object) -> None:
    path = save_calibration(MEASURED)
    document = json.loads(path.read_bytes())
    document["calibrations"][0][name] = value
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError) as raised:
        load_calibrations()
    assert "\x1b" not in str(raised.value)
    assert data_home.exists()


def test_another_format_is_said(data_home: Path) -> None:
    path = data_home / "farspan" / "calibration.json"
    path.parent.mkdir()
    path.write_text('{"format_version": 2, "calibrations": []}', encoding="utf-8")
    with pytest.raises(UnsupportedError, match="format version 2"):
        load_calibrations()
    with pytest.raises(UnsupportedError):
        save_calibration(MEASURED)


def test_a_pipe_does_not_block(data_home: Path) -> None:
    path = data_home / "farspan" / "calibration.json"
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(InputError, match="is not a file"):
        load_calibrations()


def test_nothing_fitted_is_not_kept(data_home: Path) -> None:
    bare = Calibration(
        "vllm", "0.24.0", "", "bf16", "H200", False, True, "2026-12-01", "a model", "no request"
    )
    with pytest.raises(InputError, match="nothing was fitted"):
        save_calibration(bare)
    with pytest.raises(InputError, match="farspan writes"):
        save_calibration(MEASURED._replace(linear=2.0))
    assert not (data_home / "farspan").exists()


def test_shares_of_the_peaks_come_back() -> None:
    model, gpu = load_model("llama-3.1-8b"), find_gpu("H200")
    rates = prefill_seconds(model, gpu, 1, KvDtype.AUTO)
    points = []
    for tokens in (10_000, 50_000, 100_000):
        work = rates.work(tokens)
        points.append(PrefillPoint(tokens, work.linear / 0.4 + (work.attention + work.local) / 0.6))
    linear, attention = fit_prefill_shares(model, gpu, 1, KvDtype.AUTO, points)
    assert linear == pytest.approx(0.4, rel=1e-6)
    assert attention == pytest.approx(0.6, rel=1e-6)
    # What was fitted gives the measurements back.
    measured = MEASURED._replace(linear=linear, attention=attention)
    for tokens, seconds in points:
        time = estimate_time(
            model, gpu, tp=1, engine="vllm", version="0.24.0", prompt_tokens=tokens, output_tokens=200,
            kv_dtype=KvDtype.AUTO, calibration=measured,
        )  # fmt: skip
        assert time.ttft_expected_s == pytest.approx(seconds, rel=1e-6)


def test_no_share_is_above_the_peak() -> None:
    model, gpu = load_model("llama-3.1-8b"), find_gpu("H200")
    rates = prefill_seconds(model, gpu, 1, KvDtype.AUTO)
    slow_start = [PrefillPoint(n, 0.5 + sum(rates.work(n)) * 1.1) for n in (1000, 2000, 100_000)]
    linear, attention = fit_prefill_shares(model, gpu, 1, KvDtype.AUTO, slow_start)
    assert 0 < linear <= 1
    assert 0 < attention <= 1
    with pytest.raises(InputError, match="faster than H200 can be"):
        fit_prefill_shares(
            model, gpu, 1, KvDtype.AUTO, [PrefillPoint(10_000, 1e-6), PrefillPoint(20_000, 1e-6)]
        )
    with pytest.raises(InputError, match="two different lengths"):
        fit_prefill_shares(model, gpu, 1, KvDtype.AUTO, [PrefillPoint(10_000, 5.0)])


def test_steps_of_two_lengths_and_of_one() -> None:
    model, gpu, known = load_model("llama-3.1-8b"), find_gpu("H200"), FITS[0]
    time = estimate_time(
        model, gpu, tp=1, engine="vllm", version="0.12.0", prompt_tokens=10_000, output_tokens=1,
        kv_dtype=KvDtype.AUTO,
    )  # fmt: skip
    at_ten = time.itl_floor_s
    floor = {
        10_001: at_ten,
        100_001: at_ten + 90_000 * model.kv_bytes_per_token(KvDtype.BFLOAT16) / gpu.bandwidth,
    }
    points = [PrefillPoint(tokens, 0.003 + seconds / 0.7) for tokens, seconds in floor.items()]
    share, step = fit_decode(model, gpu, 1, KvDtype.AUTO, points, known)
    assert share == pytest.approx(0.7, rel=1e-3)
    assert step == pytest.approx(0.003, rel=1e-2)
    share, step = fit_decode(model, gpu, 1, KvDtype.AUTO, points[:1], known)
    assert share == known.decode
    assert step + floor[10_001] / share == pytest.approx(points[0].seconds)
    with pytest.raises(InputError, match="faster than H200 can read"):
        fit_decode(model, gpu, 1, KvDtype.AUTO, [PrefillPoint(10_000, 1e-6)], known)
    with pytest.raises(InputError, match="no time between tokens"):
        fit_decode(model, gpu, 1, KvDtype.AUTO, [], known)
