"""The built-in engine finds cached exactly what a bench says its requests share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import builtin_server
from farspan.cli.main import group

PAGE = 16


def call(*words: str) -> str:
    """Run a verb that must succeed, and return what it prints."""
    result = CliRunner().invoke(group, words, catch_exceptions=False, standalone_mode=False)
    assert not result.return_value, result.output
    return result.stdout


@pytest.fixture(scope="module")
def url(probe_folder: Path) -> Iterator[str]:
    process = builtin_server.start(probe_folder, "--kv-cache-gib", "0.5", "--page-size", str(PAGE))
    try:
        yield builtin_server.address(process)
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_the_server_has_cached_what_is_shared(url: str, tmp_path: Path, api: str) -> None:
    command = ["bench", "--url", url, "--contexts", "1k,2k", "--depths", "0.1,0.9", "--shared-prefix", "90%"]
    command += ["--repeats", "2", "--group-size", "3", "--api", api, "--output-tokens", "4"]
    document = json.loads(call(*command, "--run", str(tmp_path / "run"), "--json"))
    assert len(document["requests"]) == 24
    for request in document["requests"]:
        assert request["status"] == "ok"
        assert not {"warm", "cache-missed"}.intersection(request["labels"])
        shared = request["expected_cached_tokens"]
        if shared:
            assert shared == 0.9 * request["context"]
            assert shared - PAGE < request["cached_tokens"] <= shared
        else:
            assert request["cached_tokens"] < PAGE
    assert len(document["shared_prefixes"]) == 4
    for point in document["shared_prefixes"]:
        assert (point["cold"], point["warm"], point["missed"]) == (2, 4, 0)
        assert point["ratio"] == point["warm_ttft_s"] / point["cold_ttft_s"]
    assert len(document["points"]) == 8


def test_the_table_and_the_report_have_both_beside_each_other(url: str, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    command = ["bench", "--url", url, "--contexts", "1k", "--shared-prefix", "800", "--output-tokens", "4"]
    printed = call(*command, "--run", run)
    assert "TTFT cold" in printed
    assert "expected" in printed
    call("report", run, "--format", "md", "-o", str(tmp_path / "report.md"))
    page = (tmp_path / "report.md").read_text()
    table = page.partition("## Shared prefixes: cold and warm")[2]
    row = next(line for line in table.splitlines() if line.startswith("| 1,000 |"))
    assert row.split(" | ")[1:4] == ["0.5", "800", "800"]
    assert "3 of 3 prompts had the prefix cached that they share" in page
    assert "Cold prefill | proven" in page
    call("report", run, "--format", "html", "-o", str(tmp_path / "report.html"))
    assert "Shared prefixes: cold and warm" in (tmp_path / "report.html").read_text()
    assert "1k warm" in call("compare", run, run)


def test_a_server_without_a_prefix_cache_is_found_out(probe_folder: Path, tmp_path: Path) -> None:
    process = builtin_server.start(probe_folder, "--kv-cache-gib", "0.5", "--no-enable-prefix-caching")
    try:
        command = ["bench", "--url", builtin_server.address(process), "--contexts", "1k", "--json"]
        command += ["--shared-prefix", "90%", "--output-tokens", "4", "--run", str(tmp_path / "run")]
        document = json.loads(call(*command))
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert ["cache-missed" in request["labels"] for request in document["requests"]] == [False, *[True] * 3]
    (point,) = document["shared_prefixes"]
    assert (point["cold"], point["warm"], point["missed"], point["ratio"]) == (1, 0, 3, None)


def test_a_traces_blocks_are_found_cached(url: str, tmp_path: Path) -> None:
    blocks = [[1, 2, 3], [1, 2, 4], [1, 5], [1, 2, 3, 6], [7]]
    trace = tmp_path / "trace.jsonl"
    with trace.open("w") as file:
        for number, ids in enumerate(blocks):
            row = {"timestamp": 10 * number, "input_length": 512 * len(ids) - 12, "output_length": 2 + number}
            file.write(json.dumps(row | {"hash_ids": ids}) + "\n")
    command = ["bench", "--url", url, "--trace", str(trace), "--concurrency", "1", "--ignore-eos", "--json"]
    document = json.loads(call(*command, "--run", str(tmp_path / "run")))
    requests = sorted(document["requests"], key=lambda request: request["repeat"])
    # Of the fourth all of the first but what its last block lacks.
    assert [request["expected_cached_tokens"] for request in requests] == [None, 1024, 512, 1524, None]
    for number, request in enumerate(requests):
        assert request["status"] == "ok"
        assert request["prompt_tokens"] == 512 * len(blocks[number]) - 12
        assert request["output_tokens"] == 2 + number
        expected = request["expected_cached_tokens"] or 0
        assert expected - PAGE < request["cached_tokens"] < expected + PAGE
        assert not {"warm", "cache-missed"}.intersection(request["labels"])
    assert document["shared_prefixes"] == []
    call("report", str(tmp_path / "run"), "--format", "html", "-o", str(tmp_path / "report.html"))
