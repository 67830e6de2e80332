"""Traces: what is read, what is refused and where, what of every request an earlier one has, and how they are sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.errors import InputError
from farspan.measurement.resume import read_last_options
from farspan.measurement.run import run_bench
from farspan.measurement.trace import BLOCK_TOKENS, Trace, read_trace
from farspan.verbs.bench import bench_dry_run, bench_options
from scripted import Script, ScriptedServer, counting_prompt

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "timestamp": st.integers(-1, 10**6) | st.floats() | JSON,
        "input_length": st.integers(-1, 2000) | JSON,
        "output_length": st.integers(-1, 2000) | JSON,
        "hash_ids": st.lists(st.integers(-1, 9), max_size=4) | JSON,
        "other": JSON,
    },
)


def row(at: float, tokens: int, blocks: list[int], output: int = 4) -> dict[str, Any]:
    return {"timestamp": at, "input_length": tokens, "output_length": output, "hash_ids": blocks}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def read(path: Path) -> Trace | InputError:
    try:
        return read_trace(path)
    except InputError as error:
        return error


def check(trace: Trace) -> None:
    times = [request.at_s for request in trace.requests]
    assert times == sorted(times)
    assert times[0] == 0
    for request in trace.requests:
        assert request.output_tokens >= 1
        assert 0 <= request.cacheable_tokens < request.input_tokens
        assert len(request.blocks) == -(-request.input_tokens // BLOCK_TOKENS)


@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    assert isinstance(read(path), InputError)


@given(rows=st.lists(ROWS | JSON, min_size=1, max_size=4))
def test_any_json_is_read_or_refused_by_its_line(tmp_path: Path, rows: list[Any]) -> None:
    found = read(write(tmp_path, *rows))
    if isinstance(found, Trace):
        assert len(found.requests) == len(rows)
        check(found)
    else:
        assert "line " in str(found)


@given(data=st.data())
def test_what_is_cacheable_is_the_longest_common_beginning(tmp_path: Path, data: st.DataObject) -> None:
    rows = []
    for at in range(data.draw(st.integers(1, 6))):
        tokens = data.draw(st.integers(1, 2100))
        count = -(-tokens // BLOCK_TOKENS)
        rows.append(row(at, tokens, data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))))
    trace = read_trace(write(tmp_path, *rows))
    check(trace)
    spelt = [
        [(block, i) for block in request.blocks for i in range(BLOCK_TOKENS)][: request.input_tokens]
        for request in trace.requests
    ]
    for number, request in enumerate(trace.requests):
        longest = 0
        for earlier in spelt[:number]:
            common = 0
            for one, other in zip(spelt[number], earlier, strict=False):
                if one != other:
                    break
                common += 1
            longest = max(longest, common)
        assert request.cacheable_tokens == min(longest, request.input_tokens - 1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object"),
        ('{"timestamp": -1}', "no timestamp"),
        ('{"timestamp": true}', "no timestamp"),
        ('{"timestamp": 1, "input_length": 0, "output_length": 1}', "input_length"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 1.5}', "output_length"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 1}', "hash_ids"),
        ('{"timestamp": 1, "input_length": 513, "output_length": 1, "hash_ids": [1]}', "1 hash_ids for 513"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(row(0, 5, [1])) + "\n\n" + line + "\n")
    with pytest.raises(InputError, match=f"line 3 of .*{said}"):
        read_trace(path)


def test_no_file_and_no_request_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_trace(tmp_path / "none")
    with pytest.raises(InputError, match="holds no request"):
        read_trace(write(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 1.0},
        {"contexts": [100]},
        {"lengths": "uniform:1,2"},
        {"concurrency": "1,4"},
        {"shared_prefix": "50%"},
        {"depths": (0.1,)},
        {"repeats": 2},
        {"output_tokens": 5},
        {"task": "count"},
        {"warmup": 1},
        {"api": "chat"},
        {"resume": True, "run": "x"},
        {"trace_speed": 0.0},
        {"trace_speed": float("nan")},
        {"trace": None, "contexts": [100], "trace_speed": 2.0},
    ],
)
def test_what_does_not_go_with_a_trace_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    given = {"trace": write(tmp_path, row(0, 5, [1]))} | changes
    with pytest.raises(InputError):
        bench_options("http://localhost:1", **given).check()


async def test_requests_leave_at_the_traces_times(server: ScriptedServer, tmp_path: Path) -> None:
    path = write(tmp_path, row(700, 600, [1, 3], 3), row(100, 1000, [1, 2]), row(900, 1000, [1, 2], 2))
    server.script = Script(cached_tokens=None)
    wanted = bench_options(server.url, run=tmp_path / "run", trace=path, trace_speed=4.0, seed=3)
    outcome = await run_bench(wanted, make_prompt=counting_prompt)
    results = sorted(outcome.results, key=lambda result: result.repeat)
    assert [(result.context, result.output_asked) for result in results] == [(1000, 4), (600, 3), (1000, 2)]
    assert [result.expected_cached_tokens for result in results] == [None, 512, 999]
    assert outcome.info.identity.task == "trace"
    plan = bench_dry_run(None, trace=path, trace_speed=4.0, requests=2)
    assert plan.requests == 2
    assert plan.last_leaves_s == pytest.approx(0.15)
    with pytest.raises(InputError, match="sent at its times"):
        read_last_options(outcome.folder)
    with pytest.raises(InputError, match="sent at its times"):
        bench_options(server.url, run=tmp_path / "run", trace=path, resume=True).check()
