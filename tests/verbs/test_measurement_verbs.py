"""The verbs about measured runs as functions: what they return is what the command prints with --json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from farspan.cli.main import group
from farspan.errors import InputError
from farspan.measurement.http.request_status import Status
from farspan.models.probe import write_probe
from farspan.verbs.bench import bench, bench_async, bench_dry_run
from farspan.verbs.compare import compare
from farspan.verbs.export import export
from farspan.verbs.import_run import import_run
from run_folders import write_run
from samples import make_result
from scripted import Script, serve_in_thread, serve_script

VLLM = Path(__file__).parents[1] / "evidence" / "peers" / "vllm-0.32.0-detailed.json"


@pytest.fixture(scope="module")
def recall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "recall"
    write_probe(folder)
    return folder


def shown(*words: str) -> object:
    result = CliRunner().invoke(group, [*words, "--json"])
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def test_compare_as_verb_and_as_function(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [make_result(ttft_s=1.0, repeat=i) for i in range(3)]).folder
    b = write_run(tmp_path / "b", [make_result(ttft_s=2.0 + i / 100, repeat=i) for i in range(3)]).folder
    compared = compare(str(a), b, fail_if=["ratio.ttft.low > 1.5"])
    assert compared.exit_code == 1
    assert shown("compare", str(a), str(b), "--fail-if", "ratio.ttft.low > 1.5") == json.loads(
        json.dumps(compared.to_json())
    )


def test_export_as_verb_and_as_function(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [make_result(repeat=i) for i in range(3)]).folder
    assert shown("export", str(folder)) == export(folder).to_json()
    written = export(folder, output=tmp_path / "out.json", detailed=True)
    assert json.loads((tmp_path / "out.json").read_bytes()) == written.to_json()


def test_import_as_verb_and_as_function(tmp_path: Path) -> None:
    imported = import_run(VLLM, tmp_path / "a", context="1k")
    printed = shown("import", str(VLLM), "--context", "1k", "-o", str(tmp_path / "b"))
    assert printed == {**imported.to_json(), "folder": str(tmp_path / "b")}


def test_a_dry_run_as_verb_and_as_function() -> None:
    planned = bench_dry_run(contexts=["1k", 2000], repeats=2)
    assert shown("bench", "--contexts", "1k,2000", "--repeats", "2", "--dry-run") == json.loads(
        json.dumps(planned.to_json())
    )


async def test_a_bench_on_a_running_loop(tmp_path: Path, recall: Path) -> None:
    async with serve_script() as server:
        server.script = Script(recall=True)
        result = await bench_async(
            server.url, contexts=["1k"], run=tmp_path / "run", tokenizer=recall, fail_if=["failed > 0"]
        )
    assert result.good
    assert result.exit_code == 0
    assert [r.status for r in result.outcomes[""].results] == [Status.OK]
    assert result.to_json()["good"] is True


def test_a_bench_names_what_is_missing(tmp_path: Path, recall: Path) -> None:
    with serve_in_thread() as server:
        server.script = Script(recall=True)
        result = bench(
            engines={"a": server.url}, contexts=[1000], run=tmp_path / "run", tokenizer=recall,
            fail_if=["requests > 0"],
        )  # fmt: skip
    assert [breach.condition for breach in result.breaches] == ["requests > 0"]
    assert list(result.to_json()["engines"]) == ["a"]
    with pytest.raises(InputError, match="give its address, its name in farspan status, or --engines"):
        bench(contexts=[1000])
    with pytest.raises(InputError, match="--resume does not say"):
        bench("http://localhost:1", contexts=[1000], resume=True)


def test_resume_alone_goes_on_with_what_the_run_had(tmp_path: Path, recall: Path) -> None:
    with serve_in_thread() as server:
        server.script = Script(recall=True)
        server.scripts = [Script(status=500), Script(recall=True)]
        folder = tmp_path / "run"
        first = bench(
            server.url, contexts=["200", "1k"], repeats=2, depths=(0.25,), run=folder, tokenizer=recall,
            output_tokens=8, requests=2, first_token_timeout=30.0,
        )  # fmt: skip
        assert sorted(r.status for r in first.outcomes[""].results) == [Status.OK, Status.SERVER_ERROR]
        sent = [request["prompt"] for request in server.requests]
        printed = shown("bench", "--run", str(folder), "--resume", "--retry-failed")
        assert isinstance(printed, dict)
        assert printed["good"]
        assert printed["skipped"] == 1
        again = server.requests[len(sent) :]
        (failed,) = (r for r in first.outcomes[""].results if r.status is not Status.OK)
        assert [(len(request["prompt"]), request["max_tokens"]) for request in again] == [(failed.context, 8)]
        earlier = next(prompt for prompt in sent if len(prompt) == failed.context)
        shared = next(
            i for i, pair in enumerate(zip(earlier, again[0]["prompt"], strict=True)) if pair[0] != pair[1]
        )
        assert shared < 16, "a prompt the server may have cached begins otherwise"
        more = bench(run=folder, resume=True, requests=4)
    options, results = more.options, more.outcomes[""].results
    assert (options.contexts, options.depths, options.limits.first_token_s) == ((200, 1000), (0.25,), 30.0)
    assert len(results) == 4
    assert len({result.prompt_id for result in results}) == 4
    with pytest.raises(InputError, match="none does not exist"):
        bench(run=tmp_path / "none", resume=True)


def test_resume_alone_knows_several_servers(tmp_path: Path, recall: Path) -> None:
    with serve_in_thread() as one, serve_in_thread() as two:
        for server in (one, two):
            server.script = Script(recall=True)
        engines = {"x": one.url, "a": two.url}
        bench(engines=engines, contexts=[200], run=tmp_path / "run", tokenizer=recall)
        again = bench(run=tmp_path / "run", resume=True)
    assert {name: outcome.skipped for name, outcome in again.outcomes.items()} == {"x": 1, "a": 1}


def test_several_concurrencies_make_a_curve(tmp_path: Path, recall: Path) -> None:
    with serve_in_thread() as server:
        server.script = Script(recall=True, ttft_s=0.05)
        most: list[int] = []
        result = CliRunner().invoke(
            group,
            [
                *("bench", "--url", server.url, "--contexts", "200,300", "--concurrency", "1,4"),
                *("--run", str(tmp_path / "run"), "--tokenizer", str(recall), "--json"),
            ],
        )
        assert result.exit_code == 0, result.output
        most.append(server.most_running)
        document = json.loads(result.stdout)
        table = CliRunner().invoke(group, ["bench", "--run", str(tmp_path / "run"), "--resume"])
    assert most == [4]
    assert [(p["context"], p["concurrency"], p["requests"]) for p in document["curve"]] == [
        (200, 1, 1), (200, 4, 4), (300, 1, 1), (300, 4, 4),
    ]  # fmt: skip
    assert all(p["requests_per_s"] > 0 and p["most_at_once"] == p["concurrency"] for p in document["curve"])
    assert [(p["context"], p["concurrency"]) for p in document["points"]] == [
        (200, 1),
        (200, 4),
        (300, 1),
        (300, 4),
    ]
    assert table.exit_code == 0
    assert "requests/s" in table.output
    with pytest.raises(InputError, match="--rate"):
        bench_dry_run(contexts=[200], concurrency=[1, 2], rate=1.0)
    with pytest.raises(InputError, match="write it as 8"):
        bench_dry_run(contexts=[200], concurrency="many")
