"""A plan held against real logs: what is within the tolerance, what is not, and what cannot be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import farspan
from farspan.cli.main import group
from farspan.errors import InputError, NotFoundError
from farspan.launch.server_records import ServerRecord, StateFolder
from farspan.launch.validation import Validation
from farspan.planner.document import PlanDocument

REAL = Path(__file__).parents[1] / "evidence" / "real"
VLLM = REAL / "vllm-0.24.0-recall.log"
SGLANG = REAL / "sglang-0.5.16-recall.log"
SHARD = REAL / "vllm-0.24.0-scout-shard.log"


@pytest.fixture(scope="module")
def recall(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checkpoint that both servers served, for 10M positions."""
    return str(farspan.probe(tmp_path_factory.mktemp("recall"), kv_heads=2, max_context="10M").folder)


def rows(result: Validation) -> dict[str, tuple[float, bool]]:
    return {figure.what: (figure.got, figure.within) for figure in result.figures}


def scout_plan(context: str) -> PlanDocument:
    answer = farspan.plan(
        "llama-4-scout",
        gpus="8xH200",
        context=context,
        engine="vllm",
        engine_version="0.24.0",
        engine_flags=["--gpu-memory-utilization", "0.9"],
        offline=True,
    )
    return PlanDocument.from_json(json.loads(json.dumps(answer.to_json())))


def test_a_vllm_server_from_its_log_alone(recall: str) -> None:
    result = farspan.validate(VLLM, recall, gpus="1xH200")
    assert rows(result) == {
        "weights, GiB a GPU": (1.2, True),
        "KV memory, GiB a GPU": (127.1, True),
        "KV cache size, tokens": (263_307_261, True),
        "requests of the longest length": (65.83, True),
        "longest request, tokens": (4_000_016, True),
    }
    assert (result.exit_code, result.version, result.planned_version) == (0, "0.24.0", "0.24.0")
    assert result.notes == ()
    # The plan is the planner's own: the KV memory that the log prints does not stand in its place.
    by_name = {figure.what: figure for figure in result.figures}
    kv = by_name["KV memory, GiB a GPU"]
    assert kv.planned != kv.got
    assert kv.difference_gib == pytest.approx(kv.planned - 127.1)
    assert (kv.basis, by_name["weights, GiB a GPU"].basis) == ("fitted", "mirrored")


def test_an_sglang_server_is_as_planned(recall: str) -> None:
    result = farspan.validate(SGLANG, recall, gpus="1xH200")
    assert [figure.what for figure in result.figures if not figure.within] == []
    assert rows(result)["tokens of the KV pool"] == (65_112_178, True)
    # The buffers of eager steps hold as many tokens as the pool: 2.9 GiB that no log names.
    assert rows(result)["free memory when ready, GiB"] == (8.98, True)
    assert result.exit_code == 0


def test_an_sglang_server_has_less_free_than_planned(recall: str) -> None:
    log = SGLANG.read_bytes()
    less = log.replace(b"available_gpu_mem=8.98", b"available_gpu_mem=5.98")
    assert less != log
    result = farspan.validate([less], recall, gpus="1xH200")
    assert [figure.what for figure in result.figures if not figure.within] == ["free memory when ready, GiB"]
    assert result.exit_code == 1


def test_what_had_to_be_guessed_is_said(recall: str) -> None:
    (note,) = farspan.validate(SGLANG, recall).notes
    assert "does not name the GPU" in note


def test_tokens_may_differ_by_the_memory_they_stand_for(recall: str) -> None:
    log = VLLM.read_bytes()
    less = log.replace(b"263,307,261", b"262,700,000").replace(b"127.1 GiB", b"126.8 GiB")
    assert less != log
    assert farspan.validate([less], recall, gpus="1xH200").within
    short = farspan.validate([log.replace(b"263,307,261", b"131,653,630")], recall, gpus="1xH200")
    (figure,) = (one for one in short.figures if not one.within)
    assert figure.what == "KV cache size, tokens"
    assert figure.difference_percent == pytest.approx(100, abs=0.1)
    assert figure.difference_gib == pytest.approx(127.06, abs=0.2)


def test_a_plan_document_against_a_log() -> None:
    result = farspan.validate(SHARD, plan=scout_plan("5Mi"))
    found = {figure.what: figure for figure in result.figures}
    assert found["weights, GiB a GPU"].within
    assert found["longest request, tokens"].planned == 5_242_880
    assert found["CUDA graphs, GiB a GPU"].got == 0.7
    assert found["CUDA graphs, GiB a GPU"].basis == "fitted"
    other = farspan.validate(SHARD, plan=scout_plan("1M"))
    assert not other.within
    assert "planned for 1,000,000 tokens, and the server takes 5,242,880" in other.notes


def test_the_nearest_context_of_a_sweep_is_taken(tmp_path: Path, recall: str) -> None:
    answer = farspan.plan(
        recall,
        gpus="1xH200",
        contexts="128k,4M,8M",
        engine="vllm",
        engine_version="0.24.0",
        engine_flags=["--enforce-eager"],
    )
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(answer.to_json()))
    result = farspan.validate(VLLM, plan=file)
    assert result.within
    assert len(result.figures) == 5
    assert any("sweep" in note for note in result.notes)
    assert {figure.basis for figure in result.figures} == {""}


def test_a_server_of_farspan_is_held_against_its_own_plan(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    record = ServerRecord(
        "scout", "local", "vllm", "0.24.0", "shard", "", 5_242_880, 0.0, str(SHARD),
        plan_document=scout_plan("5Mi").to_json(), failed="it ended",
    )  # fmt: skip
    state.save(record)
    result = farspan.validate("scout", state=state)
    assert result.plan == "the one that scout was started by"
    assert rows(result)["KV memory, GiB a GPU"][0] == 94.88
    state.save(replace(record, plan_document={}))
    with pytest.raises(InputError, match="a model that farspan does not know"):
        farspan.validate("scout", state=state)
    with pytest.raises(NotFoundError, match="did not start the server"):
        farspan.validate("http://localhost:9", state=state)
    with pytest.raises(NotFoundError):
        farspan.validate("nobody", state=state)


@pytest.mark.parametrize(
    ("log", "arguments", "said"),
    [
        (REAL / "vllm-0.32.0-unknown-flag.log", {}, "nothing to compare"),
        (SHARD, {}, "a model that farspan does not know"),
        (REAL / "nowhere.log", {}, "cannot be read"),
        (SHARD, {"plan": "plan.json", "gpus": "8xH200"}, "what to plan too"),
    ],
)
def test_what_cannot_be_compared(log: Path, arguments: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        farspan.validate(log, **arguments)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    assert caught.value.fix


def test_stages_are_not_planned_from_a_log_alone(recall: str) -> None:
    log = VLLM.read_bytes().replace(b"pipeline_parallel_size=1", b"pipeline_parallel_size=2")
    with pytest.raises(InputError, match="--pipeline-parallel-size"):
        farspan.validate([log], recall, gpus="2xH200")


def test_a_plan_of_another_engine_is_refused() -> None:
    with pytest.raises(InputError, match="no plan of sglang"):
        farspan.validate(SGLANG, plan=scout_plan("1M"))


def test_the_verb(recall: str) -> None:
    words = ["validate", str(VLLM), recall, "--gpus", "1xH200"]
    done = CliRunner().invoke(group, words, standalone_mode=False, catch_exceptions=False)
    assert done.return_value == 0
    assert "all 5 figures are within the tolerance" in done.stdout
    assert "127.06       127.10  -0.03 %     -0.04  fitted" in done.stdout
    done = CliRunner().invoke(
        group, ["validate", str(SGLANG), recall, "--gpus", "1xH100", "--json"], standalone_mode=False
    )
    assert done.return_value == 1
    shown = json.loads(done.stdout)
    assert not shown["within"]
    assert "0.3 GiB" in shown["tolerance"]
    assert shown == json.loads(json.dumps(farspan.validate(SGLANG, recall, gpus="1xH100").to_json())) | {
        "source": str(SGLANG)
    }
