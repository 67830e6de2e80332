"""Drive an engine by hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farspan.builtin.engine import InferenceEngine
from farspan.builtin.sampling_params import SamplingParams
from farspan.builtin.scheduler import FinishReason, Request


def drain(engine: InferenceEngine) -> dict[str, list[int]]:
    """Step until there is no work; return each request's tokens."""
    tokens: dict[str, list[int]] = {}
    while engine.has_work:
        for output in engine.step():
            assert output.finish_reason is not FinishReason.ERROR, output.error
            assert output.token_id is not None
            tokens.setdefault(output.request.request_id, []).append(output.token_id)
    return tokens


def ask(
    engine: InferenceEngine, prompt: NDArray[np.int32], params: SamplingParams, name: str = "r"
) -> list[int]:
    """Return the tokens that answer a prompt, alone on the engine."""
    engine.add(Request(name, prompt, params))
    return drain(engine)[name]
