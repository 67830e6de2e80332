"""The routes of a server's budget: what `farspan kv --url` asks for, behind the same key as everything else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from farspan.errors import NotFoundError
from farspan.kv.memory.budget.control import read_budget, set_limit, trim


class LimitFields(BaseModel):
    """What POST /kv/limit takes: bytes, null for no limit; a server's name or process, null for all together."""

    model_config = ConfigDict(extra="forbid", strict=True)
    limit: int | None = Field(ge=0, le=2**56)
    server: str | None = None


class TrimFields(BaseModel):
    """What POST /kv/trim takes: a server's name or process, null for all."""

    model_config = ConfigDict(extra="forbid", strict=True)
    server: str | None = None


def add_budget_routes(app: FastAPI, budget_file: Path | None) -> None:
    """Add the routes; without a budget they answer so."""

    def file() -> Path:
        if budget_file is None:
            raise NotFoundError("this server shares no budget", "start it with --kv-budget NAME")
        return budget_file

    @app.get("/kv/status")
    async def status() -> dict[str, Any]:
        return read_budget(file()).to_json()

    @app.post("/kv/limit")
    async def limit(fields: LimitFields) -> dict[str, Any]:
        await asyncio.to_thread(set_limit, file(), fields.limit, fields.server)
        return read_budget(file()).to_json()

    @app.post("/kv/trim")
    async def trim_now(fields: TrimFields) -> dict[str, Any]:
        before = read_budget(file()).held
        late = await asyncio.to_thread(trim, file(), fields.server)
        after = read_budget(file())
        return {"given_back": max(0, before - after.held), "late": late, "status": after.to_json()}
