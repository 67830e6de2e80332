from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from farspan.errors import NetworkError
from farspan.measurement.http.client import Client, Exchange, Limits
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.target import ask_server, ask_settings
from farspan.measurement.http.wire import Api
from farspan.measurement.observe.scrape import ScrapeError, Scraper
from farspan.measurement.options import BenchOptions
from farspan.measurement.run import run_bench
from scripted import ENDLESS, counting_prompt, serve_endless

LIMITS = Limits(connect_s=5.0, first_token_s=20.0, idle_s=20.0).for_output(16)


async def ask(kind: str) -> Exchange:
    async with serve_endless(kind) as url, Client(url, limits=LIMITS) as client:
        return await client.send(Api.COMPLETIONS, b"{}")


@pytest.mark.parametrize("kind", sorted(set(ENDLESS) - {"error"}))
async def test_an_answer_without_an_end_is_left(kind: str) -> None:
    began = time.perf_counter()
    exchange = await ask(kind)
    assert time.perf_counter() - began < 15, "long before its time is up"
    assert exchange.status is Status.SERVER_ERROR
    assert exchange.oversized
    assert "more than" in exchange.error


async def test_tokens_that_came_before_it_was_left_are_kept() -> None:
    exchange = await ask("tokens")
    assert LIMITS.answer_events is not None
    assert 1024 < len(exchange.token_times_s) < 2 * LIMITS.answer_events + 4096
    assert len(exchange.text) < LIMITS.answer_bytes


async def test_of_an_endless_error_its_beginning_is_told() -> None:
    exchange = await ask("error")
    assert exchange.status is Status.SERVER_ERROR
    assert exchange.error.startswith("HTTP 500: no no no")
    assert len(exchange.error) < 1000


@pytest.mark.parametrize("kind", ["json", "head", "header", "interim"])
async def test_a_list_of_models_without_an_end_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farspan.measurement.http.target.ANSWER_LIMIT_S", 3.0)
    async with serve_endless(kind) as url:
        with pytest.raises(NetworkError):
            await ask_server(url)


async def test_settings_without_an_end_are_not_taken() -> None:
    async with serve_endless("json") as url:
        assert await ask_settings(url) is None


@pytest.mark.parametrize("kind", ["json", "head", "header"])
async def test_metrics_without_an_end_are_not_read(kind: str) -> None:
    async with serve_endless(kind) as url:
        with pytest.raises(ScrapeError):
            await asyncio.to_thread(Scraper(f"{url}/metrics").read)


async def test_a_run_against_an_endless_stream_ends_labelled(tmp_path: Path) -> None:
    async with serve_endless("tokens", path=b"completions") as url:
        options = BenchOptions(url=url, run=tmp_path / "run", contexts=(100,))
        outcome = await run_bench(options, make_prompt=counting_prompt)
    (result,) = outcome.results
    assert result.status is Status.SERVER_ERROR
    assert "oversized" in result.labels
