"""farspan beside the answers of nine vLLM versions' own code, recorded (see vllm_golden.py)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from farspan.engines.vllm.versions import KNOWN_VERSIONS, RULES
from vllm_engine import farspan_answer
from vllm_golden import GOLDEN, expand, short

RECORDS: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
def test_recorded_answers(version: str) -> None:
    compared = started = 0
    for record in RECORDS:
        if version not in record["answers"]:
            continue
        theirs = record["answers"][version]
        assert short(farspan_answer(expand(record["question"]), RULES[version])) == theirs
        compared += 1
        started += theirs["starts"]
    assert compared > 50
    assert started > 10
