"""One request never ends the engine or its neighbours, wherever it fails."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from engine_at_socket import EngineAtSocket
from engine_drive import ask
from farspan.builtin import engine as engine_module
from farspan.builtin.engine import EngineOptions, InferenceEngine
from farspan.builtin.engine_channel import EngineStoppedError, RequestFailedError, RequestNoRoomError
from farspan.builtin.model import LlamaModel, Piece
from farspan.builtin.sampling import sample
from farspan.builtin.sampling_params import SamplingParams
from farspan.builtin.scheduler import FinishReason, Request
from farspan.errors import InputError
from farspan.kv.interface import KVCacheError
from farspan.kv.kv_options import KVOptions
from recall_prompts import recall_prompt

GREEDY = SamplingParams(max_tokens=4, temperature=0)
CHUNK = 256
MARK = 7  # the first token of the request that is at fault


def guilty() -> Request:
    return Request("guilty", np.full(50, MARK, np.int32), SamplingParams(max_tokens=3, seed=1))


def fail_generator(params: SamplingParams) -> Any:
    if params.seed == 1:
        raise RuntimeError("no random numbers")
    return None


def at_admission(engine: InferenceEngine, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SamplingParams, "generator", fail_generator)


def in_the_cache(engine: InferenceEngine, patch: pytest.MonkeyPatch) -> None:
    real = engine._cache.open

    def taken(token_ids: Any, max_length: int, namespace: bytes) -> Any:
        if token_ids[0] == MARK:
            raise KVCacheError("it no longer fits")
        return real(token_ids, max_length, namespace)

    patch.setattr(engine._cache, "open", taken)


def in_the_model(engine: InferenceEngine, patch: pytest.MonkeyPatch) -> None:
    real = engine.model.forward

    def forward(pieces: list[Piece]) -> torch.Tensor:
        if any(int(piece.token_ids[0]) == MARK for piece in pieces):
            raise ValueError("a shape is wrong")
        return real(pieces)

    patch.setattr(engine.model, "forward", forward)


def at_sampling(engine: InferenceEngine, patch: pytest.MonkeyPatch) -> None:
    def draw(logits: torch.Tensor, params: SamplingParams, generator: Any) -> int:
        if params.seed == 1:
            raise IndexError("no such token")
        return sample(logits, params, generator)

    patch.setattr(engine_module, "sample", draw)


@pytest.mark.parametrize("fault", [at_admission, in_the_cache, in_the_model, at_sampling])
def test_neighbours_of_a_failing_request_go_on(
    engine: InferenceEngine, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    prompt, answer = recall_prompt(700, 0.4, chunk=CHUNK)
    fault(engine, monkeypatch)
    engine.add(Request("first", prompt, GREEDY))
    engine.add(guilty())
    engine.add(Request("last", prompt, GREEDY))
    tokens: dict[str, list[int]] = {"first": [], "last": []}
    errors = {}
    while engine.has_work:
        for output in engine.step():
            if output.finish_reason is FinishReason.ERROR:
                errors[output.request.request_id] = output.error
            else:
                assert output.token_id is not None
                tokens[output.request.request_id].append(output.token_id)
    assert list(errors) == ["guilty"]
    assert errors["guilty"]
    assert tokens == {"first": answer, "last": answer}


def test_a_failure_to_give_memory_back_ends_nothing(
    engine: InferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, answer = recall_prompt(300, 0.4, chunk=CHUNK)

    def refused() -> float:
        raise RuntimeError("the driver refuses")

    monkeypatch.setattr(engine._cache, "tick", refused)
    assert ask(engine, prompt, GREEDY) == answer
    assert engine.tick() is not None, "it is tried again"


@pytest.fixture
def served(probe_model: LlamaModel) -> Iterator[EngineAtSocket]:
    made = EngineAtSocket(
        InferenceEngine(
            probe_model, EngineOptions(kv=KVOptions(capacity_gib=0.2), max_num_batched_tokens=512)
        )
    )
    yield made
    made.close()


def test_what_fits_no_longer_is_an_error_of_its_own_kind(
    served: EngineAtSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, answer = recall_prompt(300, 0.4, chunk=CHUNK)
    with monkeypatch.context() as patch:
        in_the_cache(served.engine, patch)
        with pytest.raises(RequestNoRoomError, match="no longer fits"):
            served.generate(guilty().prompt, GREEDY)
        at_admission(served.engine, patch)
        with pytest.raises(RequestFailedError, match="no random numbers"):
            served.generate(prompt, SamplingParams(max_tokens=3, seed=1))
    assert served.client.alive
    assert served.generate(prompt, GREEDY) == answer


def test_an_engine_that_ended_says_so_to_all(served: EngineAtSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Any]:
        raise RuntimeError("a defect")

    monkeypatch.setattr(served.engine, "step", broken)
    with pytest.raises(EngineStoppedError):
        served.generate(guilty().prompt, GREEDY)
    assert not served.client.alive
    with pytest.raises(EngineStoppedError):
        served.generate(guilty().prompt, GREEDY)


@pytest.mark.parametrize("top_p", [1e-50, 1e-45, 5e-324, 1e-9])
def test_a_top_p_however_small_takes_the_likeliest(top_p: float) -> None:
    params = SamplingParams(top_p=top_p, seed=3)
    logits = torch.tensor([0.0, 2.0, 1.0])
    assert {sample(logits, params, params.generator()) for _ in range(20)} == {1}


@pytest.mark.parametrize("temperature", [1e-5, 1e-300, 100.0])
def test_extreme_temperatures_draw_a_token(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=3)
    assert sample(torch.tensor([0.0, 2.0, 1.0]), params, params.generator()) in range(3)


@pytest.mark.parametrize("seed", [2**63, 2**70, -(2**63) - 1])
def test_seeds_beyond_64_bits_are_refused(seed: int) -> None:
    with pytest.raises(InputError, match="seed"):
        SamplingParams(seed=seed)


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63), 0])
def test_seeds_at_the_edge_draw(seed: int) -> None:
    assert SamplingParams(seed=seed).generator() is not None


def test_a_device_that_answers_no_more_ends_the_engine(
    engine: InferenceEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*given: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: misaligned address")

    monkeypatch.setattr(engine.model, "forward", fault)
    monkeypatch.setattr("farspan.builtin.engine.device_answers", lambda device: False)
    engine.add(Request("0", np.arange(9, dtype=np.int32), SamplingParams(max_tokens=2)))
    with pytest.raises(RuntimeError, match="misaligned address"):
        engine.step()
    assert "the GPU answers no more: restart the server (CUDA error: misaligned address)" in caplog.text
    for request in list(engine._scheduler.running):
        engine.abort(request)
