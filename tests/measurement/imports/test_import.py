"""Importing what the released tools wrote, and refusing everything else with a sentence."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.cli.import_ import command
from farspan.errors import InputError
from farspan.measurement.analysis.point_values import lookup_point
from farspan.measurement.analysis.vllm_result import export_vllm
from farspan.measurement.http.request_status import Status
from farspan.measurement.imports.foreign import ForeignRequest
from farspan.measurement.imports.read import guarded, read_foreign
from farspan.measurement.imports.write_foreign import IMPORTED_FILE, convert, convert_all, import_file
from farspan.measurement.runs.result import is_warm
from farspan.measurement.runs.run_folder import Run, load_run

PEERS = Path(__file__).parents[2] / "evidence" / "peers"
GENAI = PEERS / "genai-bench-0.0.5"
# All were pointed at a server with a TTFT of 200 ms and 20 ms between tokens, 16 tokens a request.
PACED = [PEERS / name for name in ("guidellm-0.8.1.json", "vllm-0.32.0-detailed.json", "sglang-0.5.23.jsonl")]
REFUSED = {
    PEERS / "guidellm-0.8.1-refused.json": (7, 2),
    PEERS / "vllm-0.32.0-refused.json": (7, 2),
    PEERS / "sglang-0.5.23-refused.jsonl": (7, 3),
    GENAI / "D60_8-refused.json": None,
}


def taken(path: Path, folder: Path, **options: Any) -> Run:
    import_file(path, folder / "run", **options)
    return load_run(folder / "run")


@pytest.mark.parametrize("path", PACED, ids=lambda path: path.stem)
def test_the_times_are_the_servers(path: Path, tmp_path: Path) -> None:
    run = taken(path, tmp_path, context=200)
    assert run.info.identity.model == "paced"
    assert len(run.results) == 6
    assert lookup_point("ttft.median", run.results) == pytest.approx(0.2, abs=0.03)
    assert lookup_point("tpot.median", run.results) == pytest.approx(0.02, abs=0.002)
    assert lookup_point("e2e.median", run.results) == pytest.approx(0.5, abs=0.04)
    for result in run.results:
        assert result.status is Status.OK
        assert result.output_tokens == 16
        assert "imported" in result.labels
        assert result.score is None, "nobody checked the answers"
        if path.stem.startswith("guidellm"):
            assert result.itl_s is None
            assert "itl-unknown" in result.labels
        else:
            assert result.itl_s is not None
            assert result.itl_s.mean == pytest.approx(0.02, abs=0.002)
            assert len(result.token_times_s) == 16


def test_the_tools_own_figures_agree_with_ours(tmp_path: Path) -> None:
    """vLLM's medians of its own requests are what we work out of the same requests."""
    run = taken(PEERS / "vllm-0.32.0-detailed.json", tmp_path)
    totals = json.loads((run.folder / IMPORTED_FILE).read_bytes())["totals"]
    for name, key in (
        ("ttft.median", "median_ttft_ms"),
        ("ttft.p99", "p99_ttft_ms"),
        ("tpot.mean", "mean_tpot_ms"),
        ("itl.median", "median_itl_ms"),
    ):
        value = lookup_point(name, run.results)
        assert value is not None
        assert value * 1000 == pytest.approx(totals[key], rel=1e-3), name
    exported = export_vllm(run)
    assert exported["std_ttft_ms"] == pytest.approx(totals["std_ttft_ms"], rel=1e-3), (
        "vLLM's is a population's"
    )
    sample = statistics.stdev(result.ttft_s for result in run.results if result.ttft_s is not None)
    assert lookup_point("ttft.std", run.results) == pytest.approx(sample)


def test_genai_bench_waits_are_its_own_and_labelled(tmp_path: Path) -> None:
    """Its first requests took 2.2 s to their first token from a server that took 0.2: it was tokenizing."""
    run = taken(GENAI / "D200_16.json", tmp_path)
    assert run.info.starts[0].server.version == "0.33.0"
    assert [result.context for result in run.results] == [200] * 8
    late = [result for result in run.results if result.ttft_s is not None and result.ttft_s > 2]
    assert len(late) == 2
    assert all("at-once" in result.labels for result in late)
    assert not any("at-once" in result.labels for result in run.results if result not in late)


@pytest.mark.parametrize("path", list(REFUSED), ids=lambda path: path.stem)
def test_refused_requests_stay_refused(path: Path, tmp_path: Path) -> None:
    run = taken(path, tmp_path)
    failed = [result for result in run.results if result.status is not Status.OK]
    counts = REFUSED[path]
    if counts is not None:
        assert (len(run.results), len(failed)) == counts
    assert failed
    for result in failed:
        assert result.status is Status.REFUSED
        assert result.error
        assert result.ttft_s is None
        assert result.prompt_tokens is None


def test_a_prompt_is_never_stored(tmp_path: Path) -> None:
    run = taken(PEERS / "guidellm-0.8.1.json", tmp_path)
    assert all("messages" not in path.read_text() for path in run.folder.iterdir())


def test_totals_alone_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--save-detailed"):
        taken(PEERS / "vllm-0.32.0-totals.json", tmp_path)
    assert list(tmp_path.iterdir()) == [], "half a run was left behind"


def test_several_benchmarks_want_a_choice(tmp_path: Path) -> None:
    line = (PEERS / "sglang-0.5.23.jsonl").read_text()
    path = tmp_path / "two.jsonl"
    path.write_text(line.strip() + "\n" + line.replace('"max_concurrency": 2', '"max_concurrency": 4'))
    with pytest.raises(
        InputError, match=r"2 benchmarks: 1 \(concurrency 2\), 2 \(concurrency 4\); .*--entry"
    ):
        import_file(path, tmp_path / "run")
    assert import_file(path, tmp_path / "run", entry=2).requests == 6
    assert load_run(tmp_path / "run").info.starts[0].arguments["concurrency"] == 4
    with pytest.raises(InputError, match="no benchmark 3"):
        import_file(path, tmp_path / "other", entry=3)


def test_an_earlier_run_is_never_written_over(tmp_path: Path) -> None:
    taken(PACED[0], tmp_path)
    with pytest.raises(InputError, match="there already"):
        taken(PACED[1], tmp_path)


def test_guidellm_benchmarks_are_told_apart(tmp_path: Path) -> None:
    document = json.loads((PEERS / "guidellm-0.8.1-refused.json").read_text())
    other = json.loads((PEERS / "guidellm-0.8.1.json").read_text())
    document["benchmarks"] += other["benchmarks"]
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(document))
    assert import_file(path, tmp_path / "1", entry=1).failed == 2
    second = import_file(path, tmp_path / "2", entry=2)
    assert (second.requests, second.failed, second.benchmarks) == (6, 0, 2)


def test_the_verb(tmp_path: Path) -> None:
    said = CliRunner().invoke(
        command, [str(PACED[2]), "-o", str(tmp_path / "run"), "--json"], catch_exceptions=False
    )
    assert json.loads(said.output)["requests"] == 6


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
SOURCES = [json.loads(path.read_text()) for path in (*PACED, GENAI / "D200_16.json")]


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List where every value of a document stands, long lists by their first two."""
    found = [path]
    if isinstance(tree, dict):
        for name, value in tree.items():
            found += places(value, (*path, name))
    elif isinstance(tree, list):
        for i, value in enumerate(tree[:2]):
            found += places(value, (*path, i))
    return found


def changed(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a document with one value changed."""
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = changed(tree[path[0]], path[1:], value)
    return copy


def read_to_its_end(path: Path) -> None:
    for run in read_foreign(path):
        list(guarded(path, run))


def check_text(text: bytes) -> None:
    """Read a file; its requests become results that can be written, or it is refused in one line."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "result.json"
        path.write_bytes(text)
        try:
            results = [
                result
                for run in read_foreign(path)
                for result in convert_all(run.tool, guarded(path, run), None)
            ]
        except InputError as error:
            message = str(error)
            results = []
        else:
            message = ""
        assert "\n" not in message
        for result in results:
            orjson.dumps(result)
            assert result.ttft_s is None or (math.isfinite(result.ttft_s) and result.e2e_s >= 0)


@settings(max_examples=150)
@given(st.data())
def test_a_changed_value_is_a_run_or_a_sentence(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(SOURCES))
    place = data.draw(st.sampled_from(places(source)))
    check_text(json.dumps(changed(source, place, data.draw(trees))).encode("utf-8", "surrogatepass"))


@settings(max_examples=80)
@given(trees)
def test_any_json_is_a_run_or_a_sentence(tree: Any) -> None:
    check_text(json.dumps(tree).encode())


@settings(max_examples=80)
@given(st.data())
def test_a_torn_file_is_a_sentence(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from((*PACED, GENAI / "D200_16.json"))).read_bytes().strip()
    end = data.draw(st.integers(0, len(text) - 1))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "result.json"
        path.write_bytes(text[:end])
        with pytest.raises(InputError):
            read_to_its_end(path)


def test_absurd_depth_and_bytes_are_a_sentence() -> None:
    for text in (
        b"[" * 200_000,
        b'{"model_id": ' + b"[" * 200_000,
        b"\xff\xfe\x00",
        b"",
        b'{"model_id": "a"} x',
    ):
        check_text(text)


counts = st.none() | st.integers(0, 2**40)
seconds = st.none() | st.floats(0, 1e6)


@given(
    st.builds(
        ForeignRequest,
        prompt_tokens=counts,
        cached_tokens=counts,
        output_tokens=counts,
        started_at=seconds,
        ttft_s=seconds,
        gaps_s=st.none() | st.lists(st.floats(0, 1e3), max_size=5).map(tuple),
        e2e_s=seconds,
        error=st.just("") | st.text(max_size=5),
        http_status=st.none() | st.integers(100, 599),
    )
)
def test_a_result_is_consistent_whatever_the_tool_recorded(request_: ForeignRequest) -> None:
    result = convert("a tool", request_, 100, 4, 0)
    assert (result.status is Status.OK) == (not request_.error)
    assert tuple(result.evidence) == result.labels
    assert result.ttft_s is None or result.e2e_s >= result.ttft_s - 1e-6 or result.token_times_s
    warm = is_warm(request_.cached_tokens, request_.prompt_tokens or result.context)
    assert ("warm" in result.labels) == (warm and not request_.error)
