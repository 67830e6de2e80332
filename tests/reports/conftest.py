"""What the tests of reports share: a real run of the built-in engine, and a browser."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from farspan.engines.command import Listen
from farspan.engines.registry import get_engine
from farspan.launch.local import LocalServer, find_free_port, import_path
from farspan.launch.readiness import wait_ready
from farspan.measurement.http.ready import find_missing
from farspan.measurement.observe.engine_observer import EngineObserver
from farspan.measurement.options import BenchOptions
from farspan.measurement.run import run_bench
from farspan.models.probe import write_probe
from farspan.reports.drawing import draw, layer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def engine_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that `farspan bench` wrote of the built-in engine: small contexts, memory that comes and goes."""
    folder = tmp_path_factory.mktemp("engine")
    checkpoint = folder / "recall"
    write_probe(checkpoint, num_attention_heads=2, num_key_value_heads=2)
    port = find_free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ("--keep-prefixes-s", "0", "--kv-quiet-s", "0.2", "--kv-segment-mib", "1")
    listen = Listen("127.0.0.1", port, checkpoint.name)
    argv = list(get_engine("builtin").command(str(checkpoint), flags, {}, listen, python=sys.executable).argv)

    async def measure(server: LocalServer) -> None:
        await wait_ready(server, lambda: find_missing(url), limit_s=90)
        wanted = BenchOptions(
            url=url,
            run=folder / "run",
            contexts=(1000, 6000),
            depths=(0.1, 0.9),
            output_tokens=16,
            tokenizer=checkpoint,
            in_order=True,
        )
        await run_bench(wanted, observers=(EngineObserver(interval_s=0.05),))

    # In a thread of its own: playwright keeps a loop running in this one.
    with (
        LocalServer(argv, log=folder / "server.log", environment=import_path()) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        pool.submit(lambda: asyncio.run(measure(server))).result()
    return folder / "run"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium; CI must have it. For one module: while it lives no other test can run an event loop."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("needs Chromium")
    draw([layer("warm-up", [{"x": 1}], {"type": "point"}, {"x": {"field": "x", "type": "quantitative"}})])
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file; nothing but that file may be asked for, and nothing may go wrong."""
    contexts = []

    def open_(path: Path, *, width: int = 1280, scheme: str = "light", anchor: str = "") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(path.as_uri() + anchor)
        return page

    yield open_
    for context in contexts:
        context.close()
