from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from farspan.errors import LaunchError
from farspan.launch.local import LocalServer
from farspan.launch.readiness import wait_ready


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


async def test_it_waits_until_nothing_is_missing(tmp_path: Path) -> None:
    answers = ["port closed", "loading", ""]
    heard: list[tuple[float, str]] = []

    async def check() -> str:
        return answers.pop(0)

    with LocalServer(
        python("import time; print('loading 3 of 7'); time.sleep(60)"), log=tmp_path / "log"
    ) as server:
        while not server.tail():
            await asyncio.sleep(0.02)
        waited = await wait_ready(
            server, check, limit_s=60, on_wait=lambda s, line: heard.append((s, line)), pause_s=0.01
        )
    assert answers == []
    assert waited > 0
    assert [line for _, line in heard] == ["loading 3 of 7"] * 2


async def test_a_dead_server_is_noticed_though_the_check_hangs(tmp_path: Path) -> None:
    async def check() -> str:
        await asyncio.sleep(3600)
        return ""

    with LocalServer(python("print('out of memory'); raise SystemExit(9)"), log=tmp_path / "log") as server:
        waiting = wait_ready(server, check, limit_s=60)
        with pytest.raises(LaunchError, match="status 9") as caught:
            await waiting
    assert caught.value.tail == ("out of memory",)
    assert str(tmp_path / "log") in caught.value.fix


async def test_a_server_that_never_answers(tmp_path: Path) -> None:
    async def check() -> str:
        return "HTTP 503: loading"

    with LocalServer(python("import time; time.sleep(60)"), log=tmp_path / "log") as server:
        waiting = wait_ready(server, check, limit_s=0.2, pause_s=0.01)
        with pytest.raises(LaunchError, match="HTTP 503: loading"):
            await waiting
