from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from farspan.errors import InputError
from farspan.measurement.analysis.summary import list_points, summarise
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.wire import Api
from farspan.measurement.options import BenchOptions
from farspan.measurement.progress import Watcher
from farspan.measurement.run import run_bench
from farspan.measurement.runs.advice import list_failures
from farspan.measurement.runs.bench_outcome import BenchOutcome
from farspan.measurement.runs.result import Result
from farspan.measurement.runs.run_folder import load_run
from scripted import Script, ScriptedServer, counting_prompt, serve_script


def options(server: ScriptedServer, folder: Path, **changes: Any) -> BenchOptions:
    base = BenchOptions(
        url=server.url, run=folder / "run", contexts=(100, 1000), depths=(0.1, 0.9), output_tokens=4, seed=7
    )
    return replace(base, **changes)


async def bench(wanted: BenchOptions, watcher: Watcher | None = None) -> BenchOutcome:
    return await run_bench(wanted, make_prompt=counting_prompt, watcher=watcher)


@pytest.mark.parametrize("api", list(Api))
async def test_a_good_run(server: ScriptedServer, tmp_path: Path, api: Api) -> None:
    outcome = await bench(options(server, tmp_path, repeats=2, api=api))
    assert outcome.good
    assert outcome.exit_code == 0
    assert len(outcome.results) == 8
    assert {(r.context, r.depth, r.repeat) for r in outcome.results} == {
        (c, d, r) for c in (100, 1000) for d in (0.1, 0.9) for r in (0, 1)
    }
    assert all(r.prompt_tokens == r.context and r.score == 1.0 and r.labels == () for r in outcome.results)
    assert load_run(tmp_path / "run").results == outcome.results
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "environment.json", "requests.jsonl", "run.json", "sent.jsonl",
    ]  # fmt: skip
    prompts = [str(r.get("prompt") or r.get("input_ids") or r["messages"])[:40] for r in server.requests]
    assert len(set(prompts)) == 8


async def test_the_summary_is_plain_data(server: ScriptedServer, tmp_path: Path) -> None:
    outcome = await bench(options(server, tmp_path, api_key="hunter2"))
    text = orjson.dumps(summarise(outcome))
    summary = orjson.loads(text)
    assert b"hunter2" not in text
    assert b"hunter2" not in (tmp_path / "run" / "run.json").read_bytes()
    assert summary["good"] is True
    assert len(summary["requests"]) == 4
    first = summary["requests"][0]
    assert {"prompt_tokens", "cached_tokens", "ttft_s", "e2e_s", "output_tokens", "labels", "score"} <= set(
        first
    )
    assert set(first["itl_s"]) == {"mean", "p50", "p99"}
    assert first["status"] == "ok"
    assert [point["context"] for point in summary["points"]] == [100, 100, 1000, 1000]


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_so_many_at_a_time(server: ScriptedServer, tmp_path: Path, concurrency: int) -> None:
    server.script = Script(together=asyncio.Barrier(concurrency))
    outcome = await bench(options(server, tmp_path, repeats=3, concurrency=concurrency))
    assert outcome.good
    assert server.most_running == concurrency
    expected = {("concurrent",)} if concurrency > 1 else {()}
    assert {result.labels for result in outcome.results} == expected


async def test_one_bad_request_does_not_stop_the_others(server: ScriptedServer, tmp_path: Path) -> None:
    server.scripts = [
        Script(),
        Script(status=400, error={"error": {"message": "too long"}}),
        Script(cut_after=1),
        Script(status=500, error="boom"),
        Script(reply="w1 "),
        Script(count_offset=3),
        Script(cached_tokens=64),
        Script(usage=False),
    ]
    outcome = await bench(options(server, tmp_path, repeats=2, in_order=True))
    assert outcome.exit_code == 1
    assert [r.status.value for r in outcome.results] == [
        "ok", "refused", "cut", "server_error", "wrong_answer", "wrong_length", "ok", "ok",
    ]  # fmt: skip
    assert outcome.results[1].error == "HTTP 400: too long"
    assert outcome.results[6].labels == ("warm",)
    assert set(outcome.results[7].labels) == {"cached-unknown", "count-unknown"}
    failures = list_failures(outcome.results)
    assert {f.status for f in failures} == {
        Status.REFUSED, Status.CUT, Status.SERVER_ERROR, Status.WRONG_ANSWER, Status.WRONG_LENGTH,
    }  # fmt: skip
    assert all(f.fix for f in failures)
    points = {(p.context, p.depth): p for p in list_points(outcome.results)}
    assert points[1000, 0.1].statuses == {"cut": 1, "ok": 1}
    assert points[1000, 0.1].trusted == 0  # its one answer was warm
    assert points[1000, 0.1].ttft_s is not None
    assert points[100, 0.1].recall == 0.5


async def test_nothing_answered_is_bad_input(server: ScriptedServer, tmp_path: Path) -> None:
    server.script = Script(status=400)
    outcome = await bench(options(server, tmp_path))
    assert outcome.exit_code == 2
    (failure,) = list_failures(outcome.results)
    assert failure.count == 4
    assert "as scripted" in str(failure)


async def test_resume_sends_only_what_is_missing(server: ScriptedServer, tmp_path: Path) -> None:
    server.scripts = [Script(), Script(cut_after=1)]
    first = await bench(options(server, tmp_path, contexts=(100,), seed=None))
    with pytest.raises(InputError, match="--resume"):
        await bench(options(server, tmp_path, seed=None))
    again = await bench(options(server, tmp_path, resume=True, seed=None))
    assert again.info.identity.seed == first.info.identity.seed
    assert again.skipped == 2
    assert len(server.requests) == 4
    assert len(again.results) == 4
    assert again.results[:2] == first.results
    assert again.exit_code == 1
    mended = await bench(options(server, tmp_path, resume=True, retry_failed=True, seed=None))
    assert len(server.requests) == 5
    assert len(mended.results) == 4
    assert mended.good
    assert (await bench(options(server, tmp_path, resume=True, seed=None))).good
    assert len(server.requests) == 5


async def test_cancelling_keeps_what_is_done(server: ScriptedServer, tmp_path: Path) -> None:
    class StopAfterTwo(Watcher):
        seen = 0

        def finished(self, result: Result) -> None:
            self.seen += 1
            if self.seen == 2:
                task.cancel()

    task = asyncio.ensure_future(bench(options(server, tmp_path, repeats=2), StopAfterTwo()))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(load_run(tmp_path / "run").results) == 2
    assert not (tmp_path / "run" / "prompts").exists()
    outcome = await bench(options(server, tmp_path, repeats=2, resume=True))
    assert outcome.good
    assert len(outcome.results) == 8
    assert outcome.skipped == 2


async def test_a_server_that_goes_away_ends_the_run(tmp_path: Path) -> None:
    class Leave(Watcher):
        seen = 0

        def finished(self, result: Result) -> None:
            self.seen += 1
            if self.seen == 2:
                stop.set()

    async def serve() -> None:
        async with serve_script() as server:
            server.script = Script(ttft_s=0.05)
            ready.set_result(server)
            await stop.wait()

    ready: asyncio.Future[ScriptedServer] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    serving = asyncio.create_task(serve())
    outcome = await bench(options(await ready, tmp_path, repeats=5), Leave())
    await serving
    statuses = [result.status for result in outcome.results]
    assert statuses[:2] == [Status.OK, Status.OK]
    assert statuses[-3:] == [Status.UNREACHABLE] * 3
    assert len(statuses) <= 6  # one may be cut off by the leaving server
    assert outcome.unsent == 20 - len(statuses)
    assert "no longer takes connections" in outcome.stopped
    assert outcome.exit_code == 1


async def test_the_time_limit_ends_the_run(server: ScriptedServer, tmp_path: Path) -> None:
    server.scripts = [Script(), Script(hang=True)]
    outcome = await bench(options(server, tmp_path, time_limit_s=1.5))
    assert [r.status for r in outcome.results] == [Status.OK, Status.TIMED_OUT]
    assert outcome.unsent == 2
    assert "time limit of 1.5 s" in outcome.stopped
    assert outcome.exit_code == 1


async def test_a_context_above_the_limit_is_refused_before_anything_is_sent(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.card["max_model_len"] = 1000
    with pytest.raises(InputError, match=r"context 1k plus 4 output tokens .* --max-model-len 1004"):
        await bench(options(server, tmp_path))
    assert server.requests == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"repeats": 0},
        {"concurrency": 0},
        {"output_tokens": 0},
        {"contexts": ()},
        {"depths": (1.5,)},
        {"retry_failed": True},
        {"url": "localhost"},
    ],
)
async def test_bad_options(server: ScriptedServer, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        await bench(options(server, tmp_path, **changes))
    assert caught.value.fix
    assert not (tmp_path / "run").exists()


async def test_an_unknown_tokenizer_asks_for_one(server: ScriptedServer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--tokenizer"):
        await run_bench(options(server, tmp_path))


async def test_a_full_disk_is_one_clear_error(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    class FillUp(Watcher):
        def started(self, job: object) -> None:
            monkeypatch.setattr("farspan.measurement.runs.run_folder.os.fsync", full)

    with pytest.raises(InputError, match="No space left"):
        await bench(options(server, tmp_path, concurrency=3), FillUp())
