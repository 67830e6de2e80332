from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from scripted import ScriptedServer, serve_script


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serve_script() as scripted:
        yield scripted
