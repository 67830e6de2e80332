"""`farspan prove` through a played docker and a played cluster: one engine after the other, and nothing that stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import farspan
from farspan.cli.main import group
from farspan.launch.local import find_free_port
from farspan.launch.server_records import StateFolder
from played import Fakes

EVIDENCE = Path(__file__).resolve().parents[1] / "evidence"
STARTED = EVIDENCE / "real" / "vllm-0.24.0-scout-shard.log"
READY = {
    "phase": "Running",
    "conditions": [{"type": "Ready", "status": "True"}],
    "containerStatuses": [{"state": {"running": {}}}],
}


@pytest.fixture(scope="module")
def recall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return farspan.probe(tmp_path_factory.mktemp("prove") / "recall", heads=2, kv_heads=2).folder


def prove(recall: Path, out: Path, *more: str) -> Result:
    words = (
        "prove", "llama-4-scout", "--gpus", "8xH200", "--offline", "--contexts", "1k,2k", "--depths", "0.5",
        "--output-tokens", "16", "--tokenizer", str(recall), "--metrics-interval", "0", "--port", str(find_free_port()),
        "-o", str(out),
    )  # fmt: skip
    return CliRunner().invoke(group, [*words, *more], standalone_mode=False)


def test_two_engines_in_docker_one_after_the_other(fakes: Fakes, recall: Path, tmp_path: Path) -> None:
    fakes.play(log=STARTED)
    done = prove(recall, tmp_path / "out", "--engines", "vllm,sglang")
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.return_value == 0, done.output
    order = [call["argv"][1] for call in fakes.calls if call["argv"][1] in ("run", "rm")]
    assert order == ["run", "rm", "run", "rm"]
    names = [argv[argv.index("--name") + 1] for argv in fakes.argv("docker", "run")]
    assert [name.split("-")[1] for name in names] == ["vllm", "sglang"]
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| vllm (vLLM 0." in page
    assert "floor" in page, "the plan's times stand beside the measured ones"
    assert "planned" in page
    assert StateFolder().records() == []


def test_an_engine_that_dies_is_a_row_with_the_doctors_finding(
    fakes: Fakes, recall: Path, tmp_path: Path
) -> None:
    fakes.play(log=EVIDENCE / "vllm-context-too-long.log", exit_status=1)
    done = prove(recall, tmp_path / "out", "--engines", "vllm")
    assert done.return_value == 1
    page = (tmp_path / "out" / "report.md").read_text()
    assert "not proven: did not start: the server ended with status 1" in page
    assert "error: " in page
    assert "→ " in page
    assert (tmp_path / "out" / "vllm.log").read_text() == (EVIDENCE / "vllm-context-too-long.log").read_text()
    assert not (fakes.folder / "container.json").exists()
    fakes.play(log=STARTED)
    assert prove(recall, tmp_path / "out", "--engines", "vllm").return_value == 1, (
        "a failure is not tried again"
    )
    again = prove(recall, tmp_path / "out", "--engines", "vllm", "--retry-failed")
    assert again.return_value == 0, again.output


def test_in_a_cluster_the_port_is_forwarded_while_it_measures(
    fakes: Fakes, recall: Path, tmp_path: Path
) -> None:
    fakes.play(log=STARTED, pods=[READY])
    done = prove(
        recall, tmp_path / "out", "--engines", "vllm", "--runtime", "kubernetes", "--namespace", "llm"
    )
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.return_value == 0, done.output
    assert len(fakes.argv("kubectl", "apply")) == 1
    assert len(fakes.argv("kubectl", "delete")) == 1
    assert (tmp_path / "out" / "vllm" / "server.log").stat().st_size


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        ("docker", ("docker run", "farspan doctor container:prove-vllm", "docker rm --force prove-vllm")),
        (
            "kubernetes",
            ("kubectl apply", "kubectl port-forward", "farspan doctor pod:prove-vllm", "kubectl delete"),
        ),
    ],
)
def test_every_command_of_a_dry_run(
    runtime: str, words: tuple[str, ...], fakes: Fakes, recall: Path, tmp_path: Path
) -> None:
    done = prove(recall, tmp_path / "out", "--engines", "vllm", "--runtime", runtime, "--dry-run")
    assert done.return_value == 0
    assert all(word in done.stdout for word in words), done.stdout
    assert fakes.calls == []
