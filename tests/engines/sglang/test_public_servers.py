"""The KV pool farspan plans beside what public servers printed, on other models and cards than the fits come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from farspan.engines.sglang.config import config_of
from farspan.engines.sglang.defaults import _vision_factor
from farspan.engines.sglang.footprint import context_size
from farspan.engines.sglang.plan import plan_sglang
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.planner.request import PlanRequest

SERVERS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "public_servers.json").read_text(encoding="utf-8")
)


def asked(server: dict[str, Any]) -> PlanRequest:
    return PlanRequest(
        load_model(server["model"], allow_network=False),
        find_gpu(server["gpu"]),
        server["tp"],
        server["tp"],
        server["context"],
        engine_version=server["version"],
        engine_flags=server["flags"],
        as_given=True,
    )


@pytest.mark.parametrize("server", SERVERS, ids=lambda s: f"{s['model']}-{s['gpu']}-{s['version']}")
def test_the_pool_is_what_the_server_printed(server: dict[str, Any]) -> None:
    plan = plan_sglang(asked(server))
    assert plan.starts
    off = plan.pools["full"] / server["tokens"] - 1
    gib = off * server["kv_gib"]
    assert abs(off) <= 0.005 or abs(gib) <= 0.3
    assert gib <= 0.3


def test_a_larger_vision_tower_takes_more_of_the_default_fraction() -> None:
    scout, kimi = (load_model(name, allow_network=False) for name in ("llama-4-scout", "kimi-k2.5"))
    # 27 layers of width 1152 beside ViT-L's 24 of 1024.
    ratio = 27 * 1152**2 / (24 * 1024**2)
    assert _vision_factor(kimi) == pytest.approx(0.95 * (1 - 0.1 * (ratio - 1)))
    assert _vision_factor(scout) < _vision_factor(kimi) < 0.95


def test_what_is_gone_before_loading_depends_on_the_link_and_the_ranks() -> None:
    base = asked(SERVERS[0])

    def gone(gpu: str, tp: int) -> float:
        request = PlanRequest(base.model, find_gpu(gpu), tp, tp, 1000, engine_version="0.5.23")
        return context_size(config_of(request)).bytes / 2**30

    assert gone("L40S", 4) < gone("H100", 1) < gone("H100", 2) < gone("H100", 4) < gone("MI300X", 8)


def test_prefill_graphs_take_what_one_server_logged() -> None:
    server = next(one for one in SERVERS if one["model"] == "qwen3-8b")
    ledger = plan_sglang(asked(server)).ledger
    lines = {line.name: line.bytes / 2**30 for line in ledger}
    assert lines["CUDA graphs: prefill"] == pytest.approx(2.32, abs=0.15)
    assert lines["CUDA graphs: captured"] >= 0.6
    # A chunk runs in that memory: it is not counted twice.
    assert lines["Prefill activations"] == 0
