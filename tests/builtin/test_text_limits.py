"""What a text may take is processor time: a process that gets no core is waited for, one that never ends is not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from farspan.builtin.bodies import ReceivedBody
from farspan.builtin.text_jobs import TextJob
from farspan.builtin.text_pool import ReadText, TextFailedError, TextPool

CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
EMPTY_LOOP = "{% for j in range(99999) %}{% endfor %}"


def checkpoint(probe_folder: Path, folder: Path, **tokenizer_config: str) -> Path:
    folder.mkdir()
    for file in probe_folder.iterdir():
        if file.name not in ("tokenizer_config.json", "chat_template.jinja"):
            (folder / file.name).symlink_to(file)
    config = json.loads((probe_folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **tokenizer_config}))
    return folder


@asynccontextmanager
async def texts(folder: Path, **limits: float) -> AsyncIterator[tuple[TextPool, psutil.Process]]:
    """A pool whose first process has read a text already, and that process."""
    before = {process.pid for process in psutil.Process().children()}
    pool = TextPool(folder, 1000, 4096, 2**20, **limits)
    pool.start()
    try:
        await read(pool, TextJob.COMPLETION, {"prompt": [1, 2], "max_tokens": 1})
        (worker,) = (process for process in psutil.Process().children() if process.pid not in before)
        yield pool, worker
    finally:
        pool.close()


async def read(pool: TextPool, job: TextJob, content: dict[str, Any]) -> ReadText:
    body = json.dumps(content).encode()
    file = os.memfd_create("body")
    try:
        os.write(file, body)
        return await pool.run(job, ReceivedBody(file, len(body)))
    finally:
        os.close(file)


def test_a_process_that_gets_no_core_is_waited_for(probe_folder: Path, tmp_path: Path) -> None:
    slow = "{% for i in range(60) %}" + EMPTY_LOOP + "{% endfor %}x"
    folder = checkpoint(probe_folder, tmp_path / "slow", chat_template=slow)

    async def starve() -> None:
        async with texts(folder, processor_s=2.0) as (pool, worker):
            reading = asyncio.create_task(read(pool, TextJob.CHAT, CHAT))
            used = sum(worker.cpu_times()[:2])
            while sum(worker.cpu_times()[:2]) < used + 0.05:
                await asyncio.sleep(0.01)
            worker.suspend()
            await asyncio.sleep(4.0)  # longer than the template and the text may take
            assert not reading.done()
            worker.resume()
            assert len((await reading).token_ids())
            assert worker.is_running()

    asyncio.run(starve())


def test_a_looping_template_is_ended_and_its_process_goes_on(probe_folder: Path, tmp_path: Path) -> None:
    looping = "{% for i in range(99999) %}" + EMPTY_LOOP + "{% endfor %}"
    folder = checkpoint(probe_folder, tmp_path / "loops", chat_template=looping)

    async def loop() -> None:
        async with texts(folder) as (pool, worker):
            with pytest.raises(TextFailedError, match=r"longer than 2\.0 s of processor time") as failed:
                await read(pool, TextJob.CHAT, CHAT)
            assert failed.value.status == 500
            assert worker.is_running()

    asyncio.run(loop())


def test_a_text_that_is_read_forever_ends_its_process(probe_folder: Path, tmp_path: Path) -> None:
    """The template's own limit is looked at between two of Python's instructions, and here is one that never ends."""
    folder = checkpoint(
        probe_folder, tmp_path / "power", chat_template="{{ (messages|length + 6) ** (9 ** 9) % 3 }}"
    )

    async def read_forever() -> None:
        async with texts(folder, processor_s=1.0) as (pool, worker):
            with pytest.raises(TextFailedError, match="took too long to read") as failed:
                await read(pool, TextJob.CHAT, CHAT)
            assert failed.value.status == 500
            with suppress(psutil.NoSuchProcess):
                assert worker.status() == psutil.STATUS_ZOMBIE
            await read(pool, TextJob.COMPLETION, {"prompt": [1], "max_tokens": 1})

    asyncio.run(read_forever())


def test_only_processor_time_is_counted() -> None:
    limited = "from farspan.builtin.text_worker import *; allow_processor_time(1); "
    waits = subprocess.run([sys.executable, "-c", limited + "time.sleep(3)"], timeout=100, check=False)
    assert waits.returncode == 0
    loops = subprocess.run([sys.executable, "-c", limited + "\nwhile True: pass"], timeout=100, check=False)
    assert loops.returncode == -signal.SIGXCPU
