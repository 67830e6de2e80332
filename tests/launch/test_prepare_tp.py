"""A server without --tp takes the largest size its model's heads allow."""

from __future__ import annotations

from typing import Any

import pytest

from farspan.engines.registry import get_engine
from farspan.launch.prepare_launch import prepare
from farspan.launch.serve_options import ServeOptions


@pytest.mark.parametrize(("gpus", "tp"), [("6xH100", "4"), ("h100x8", "8")])
def test_the_heads_decide(gpus: str, tp: str) -> None:
    options: dict[str, Any] = {
        "runtime": "docker",
        "gpus": gpus,
        "context": 8192,
        "environment": {"HOME": "/nowhere"},
    }
    words = prepare(ServeOptions(model="qwen3-8b", engine=get_engine("vllm"), **options)).launch.command.argv
    assert words[words.index("--tensor-parallel-size") + 1] == tp
