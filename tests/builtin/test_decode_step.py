"""Decoding in one go: the same tokens with and without, on pages that come while graphs stand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dummy_models import write_config
from farspan.builtin.decode_step import LARGEST_BATCH, Decoded, Run
from farspan.builtin.engine import EngineOptions, InferenceEngine
from farspan.builtin.load_weights import LoadFormat
from farspan.builtin.model import LlamaModel
from farspan.builtin.sampling_params import SamplingParams
from farspan.builtin.scheduler import Request
from farspan.kv.kv_options import KVOptions


class RecordedRuns:
    """Captures as a CUDA graph does: what is run later is what was run first, and results lie where they lay."""

    def __init__(self) -> None:
        self.captured = 0
        self.replayed: list[int] = []

    def __call__(self, run: Run) -> Run:
        with torch.inference_mode():
            static = run()
        self.captured += 1

        def replay() -> Decoded:
            self.replayed.append(len(static.logits))
            with torch.inference_mode():
                fresh = run()
                static.logits.copy_(fresh.logits)
                static.likeliest.copy_(fresh.likeliest)
            return static

        return replay


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("models") / "rank")


@pytest.fixture
def model(folder: Path) -> LlamaModel:
    return LlamaModel(folder, load_format=LoadFormat.DUMMY)


def engine_of(model: LlamaModel, capture: RecordedRuns | None, **kv: object) -> InferenceEngine:
    options = EngineOptions(
        kv=KVOptions(capacity_gib=0.25, page_tokens=8, **kv),  # type: ignore[arg-type]
        max_num_batched_tokens=64,
    )
    return InferenceEngine(model, options, capture)


def prompts() -> Iterator[Request]:
    """Seven requests that begin and end at different times; two share a prefix; two draw their tokens."""
    generator = np.random.default_rng(7)
    shared = generator.integers(0, 97, 40)
    for index in range(7):
        tokens = generator.integers(0, 97, 5 + 13 * index)
        if index in (2, 5):
            tokens = np.concatenate((shared, tokens))
        params = SamplingParams(
            max_tokens=6 + 5 * index,
            temperature=0.8 if index in (3, 4) else 0.0,
            seed=index,
            ignore_eos=True,
        )
        yield Request(str(index), tokens.astype(np.int32), params)


def answers(engine: InferenceEngine) -> list[list[int]]:
    """Every request's tokens; a new one comes every third step."""
    requests = list(prompts())
    waiting = list(requests)
    steps = 0
    while waiting or engine.has_work:
        if waiting and steps % 3 == 0:
            engine.add(waiting.pop(0))
        engine.step()
        if steps % 5 == 0:
            engine._cache.check_integrity()
        steps += 1
    engine.close()
    return [request.output for request in requests]


@pytest.mark.parametrize("fp8", [False, True])
def test_the_same_tokens_with_graphs_and_without(model: LlamaModel, fp8: bool) -> None:
    plain = answers(engine_of(model, None, fp8=fp8))
    assert [len(answer) for answer in plain] == [6 + 5 * index for index in range(7)]
    assert len({tuple(answer[:6]) for answer in plain}) > 4, "all answers alike would prove nothing"
    model.operations.paged = True
    assert answers(engine_of(model, None, fp8=fp8)) == plain
    recorded = RecordedRuns()
    assert answers(engine_of(model, recorded, fp8=fp8)) == plain
    assert recorded.captured == 5
    assert set(recorded.replayed) == {1, 2, 4, 8}, "a batch goes by the graph of the next size"


def test_memory_grows_between_replays(tmp_path: Path) -> None:
    """More pages than were there when the graph was captured, in segments that did not exist then."""
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 256, "num_hidden_layers": 2}
    wide = write_config(tmp_path, **sizes, no_rope_layer_interval=2)
    model = LlamaModel(wide, load_format=LoadFormat.DUMMY)
    model.operations.paged = True
    answered = []
    for capture in (None, RecordedRuns()):
        engine = engine_of(model, capture, segment_mib=1)
        params = SamplingParams(max_tokens=300, temperature=0, ignore_eos=True)
        request = Request("0", np.arange(9, dtype=np.int32), params)
        engine.add(request)
        engine.step()
        before = engine.statistics().segments_created
        while engine.has_work:
            engine.step()
            after = max(before, engine.statistics().segments_created)
        answered.append(list(request.output))
        assert after > before
        if capture is not None:
            assert len(capture.replayed) == 299
        engine.close()
    assert answered[0] == answered[1]
    assert len(set(answered[0])) > 20, "one token for ever would prove nothing"


def test_a_larger_batch_than_any_graph_takes_several(model: LlamaModel) -> None:
    answered = []
    for recorded in (None, RecordedRuns()):
        model.operations.paged = recorded is not None
        engine = engine_of(model, recorded)
        requests = [
            Request(str(index), np.array([index, 1], np.int32), params)
            for index in range(LARGEST_BATCH + 3)
            for params in [SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)]
        ]
        for request in requests:
            engine.add(request)
        while engine.has_work:
            engine.step()
        engine.close()
        answered.append([request.output for request in requests])
        if recorded is not None:
            assert recorded.replayed == [LARGEST_BATCH, 4] * 3
    assert answered[0] == answered[1]


def test_a_refused_capture_is_said_and_survived(model: LlamaModel, caplog: pytest.LogCaptureFixture) -> None:
    model.operations.paged = True
    expected = answers(engine_of(model, None))

    def refuse(run: Run) -> Run:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    with caplog.at_level(logging.WARNING):
        engine = InferenceEngine(
            model,
            EngineOptions(kv=KVOptions(capacity_gib=0.25, page_tokens=8), max_num_batched_tokens=64),
            refuse,
        )
    assert (
        "decoding runs without CUDA graphs: operation not permitted when stream is capturing" in caplog.text
    )
    assert answers(engine) == expected


def test_the_debug_mode_checks_every_read(model: LlamaModel) -> None:
    model.operations.paged = True
    recorded = RecordedRuns()
    engine = engine_of(model, recorded, debug=True)
    assert recorded.captured == 0
    engine.close()


def test_no_graph_on_a_cpu(model: LlamaModel) -> None:
    assert not model.operations.paged
    recorded = RecordedRuns()
    engine = engine_of(model, recorded)
    assert recorded.captured == 0
    engine.close()


def test_dummy_weights_need_no_file_and_are_the_same_each_time(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    one, other = (LlamaModel(folder, load_format=LoadFormat.DUMMY) for _ in range(2))
    assert torch.equal(one._layers[1].qkv, other._layers[1].qkv)
    assert not torch.equal(one._layers[1].qkv, one._layers[2].qkv)
