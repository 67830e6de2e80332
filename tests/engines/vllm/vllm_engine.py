"""A vLLM in a virtual environment of its own, asked about layers over a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farspan.engines.vllm.kv_groups import GroupingError, LayerSpecs
from farspan.engines.vllm.pool import layers_bytes, make_layout
from farspan.engines.vllm.printed import kv_cache_size_tokens
from farspan.engines.vllm.versions import CapacityCheck, VllmRules
from farspan.planner.bisection import last_holding

ORACLE = Path(__file__).with_name("vllm_oracle.py")
PYTHON_VARIABLE = "FARSPAN_ENGINES_PYTHON"


@dataclass(frozen=True)
class Question:
    """Layers and the settings they are planned under; one rank."""

    layers: LayerSpecs
    max_model_len: int
    max_num_batched_tokens: int
    batches_in_flight: int
    hybrid: bool
    available: int

    def in_flight(self, rules: VllmRules) -> int:
        """Tokens in flight as a version counts them."""
        return self.max_num_batched_tokens * (self.batches_in_flight if rules.counts_batches_in_flight else 1)

    def as_json(self) -> dict[str, Any]:
        return {
            "layers": {name: spec._asdict() for name, spec in self.layers.items()},
            "max_model_len": self.max_model_len,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "in_flight": self.max_num_batched_tokens * self.batches_in_flight,
            "hybrid": self.hybrid,
            "available": self.available,
        }


def farspan_answer(question: Question, rules: VllmRules) -> dict[str, Any]:
    """What farspan makes of a question, in the oracle's words (without an engine's error text)."""
    in_flight = question.in_flight(rules)
    try:
        layout = make_layout(question.layers, rules, hybrid=question.hybrid)
    except GroupingError:
        # Up to 0.13 the layers are added up before they are grouped.
        return {"starts": False, "estimated_max_model_len": _estimate_by_layers(question, rules)}
    if layout.check_bytes(question.available) <= 0:
        return {"starts": False, "estimated_max_model_len": None}
    if not layout.passes_check(question.available, question.max_model_len, in_flight):
        longest = layout.estimated_max_model_len(question.available, question.max_model_len, in_flight)
        return {"starts": False, "estimated_max_model_len": longest}
    blocks = layout.num_blocks(question.available)
    return {
        "starts": True,
        "groups": [list(group.layers) for group in layout.groups],
        "block_sizes": [group.spec.block_size for group in layout.groups],
        "pages": [group.page_bytes for group in layout.groups],
        "num_blocks": blocks,
        "concurrency": layout.concurrency(blocks, question.max_model_len, in_flight),
        "printed_tokens": kv_cache_size_tokens(layout, blocks, question.max_model_len, in_flight),
    }


def _estimate_by_layers(question: Question, rules: VllmRules) -> int | None:
    if rules.check is not CapacityCheck.LAYERS:
        return None
    in_flight = question.in_flight(rules)

    def fits(tokens: int) -> bool:
        return layers_bytes(question.layers, tokens, in_flight) <= question.available

    return None if fits(question.max_model_len) else last_holding(1, question.max_model_len, fits)


class Engine:
    """A running oracle."""

    def __init__(self, python: str, pythonpath: str = "") -> None:
        environment = {**os.environ, "PYTHONPATH": pythonpath, "VLLM_LOGGING_LEVEL": "ERROR"}
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115, closed in close()
        self._process = subprocess.Popen(
            [python, str(ORACLE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )

    def ask(self, question: Question) -> dict[str, Any]:
        """The engine's own answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question.as_json()) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise AssertionError(f"the engine's Python ended:\n{self._errors.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()


def engines_python() -> str:
    """The Python of the engines' environment; its absence is a failure, never a skip."""
    python = os.environ.get(PYTHON_VARIABLE, "")
    assert python, f"{PYTHON_VARIABLE} names no Python with vLLM in it: run make test-engines"
    assert Path(python).exists(), f"{PYTHON_VARIABLE}={python} does not exist: run make test-engines"
    return python
