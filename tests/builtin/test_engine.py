"""The engine on the recall checkpoint: needles found however prompts are cut, batched, aborted or placed."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine_drive import ask, drain
from farspan.builtin.engine import EngineOptions, InferenceEngine
from farspan.builtin.model import LlamaModel, Piece
from farspan.builtin.sampling import sample
from farspan.builtin.sampling_params import SamplingParams
from farspan.builtin.scheduler import FinishReason, Request
from farspan.errors import InputError
from farspan.kv.interface import KVCacheError, KVCacheShrunkError, NoRoomError, PageRun, SequenceKV
from farspan.kv.kv_options import KVOptions
from farspan.kv.memory.drivers.driver import Memory
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.segments import SegmentPool
from recall_prompts import WORDS, recall_prompt

GREEDY = SamplingParams(max_tokens=4, temperature=0)
CHUNK = 256


@settings(max_examples=25)
@given(
    tokens=st.integers(20, 3000),
    depth=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    step=st.sampled_from([64, 255, 256, 257, 1024, 8192]),
)
def test_needle_is_found_at_any_length_depth_and_step(
    probe_model: LlamaModel, tokens: int, depth: float, seed: int, step: int
) -> None:
    engine = InferenceEngine(
        probe_model, EngineOptions(kv=KVOptions(capacity_gib=1), max_num_batched_tokens=step)
    )
    prompt, answer = recall_prompt(tokens, depth, seed=seed, chunk=CHUNK)
    assert ask(engine, prompt, GREEDY) == answer
    engine.close()


def test_needle_is_found_in_bfloat16(probe_folder: Any) -> None:
    engine = InferenceEngine(
        LlamaModel(probe_folder, dtype=torch.bfloat16), EngineOptions(kv=KVOptions(capacity_gib=1))
    )
    for depth in (0.0, 0.5, 1.0):
        prompt, answer = recall_prompt(5000, depth, chunk=CHUNK)
        assert ask(engine, prompt, GREEDY) == answer


class AtTheEnd(SequenceKV):
    """The last part of a longer sequence: its positions are real, what lay before `first` is simply not there."""

    def __init__(self, layers: int, first: int) -> None:
        self.first = first
        self.parts: list[list[PageRun]] = [[] for _ in range(layers)]

    cached_tokens = 0
    length = 0

    def append(self, count: int) -> None: ...

    def computed(self, token_ids: NDArray[np.int32]) -> None: ...

    def close(self) -> None: ...

    def write(self, layer: int, start: int, key: torch.Tensor, value: torch.Tensor) -> None:
        self.parts[layer].append(PageRun(key, value))

    def runs(self, layer: int, start: int, stop: int) -> list[PageRun]:
        low, high = max(start, self.first) - self.first, stop - self.first
        if low >= high:
            return []
        key = torch.cat([run.key for run in self.parts[layer]])
        value = torch.cat([run.value for run in self.parts[layer]])
        return [PageRun(key[low:high], value[low:high])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_needle_is_found_at_position_ten_million(probe_folder: Any, dtype: torch.dtype) -> None:
    """The last 4,000 of 10,000,000 tokens, at their own positions: what float32 angles do there is all in it."""
    model = LlamaModel(probe_folder, dtype=dtype)
    prompt, answer = recall_prompt(4000, 0.3, chunk=CHUNK)
    first = 10_000_000 // CHUNK * CHUNK - len(prompt) // CHUNK * CHUNK
    sequence = AtTheEnd(len(model.config.layers), first)
    tokens = torch.from_numpy(prompt.astype("int64"))
    position, found = first, []
    for _ in answer:
        logits = model.forward([Piece(sequence, tokens, position)])
        position += len(tokens)
        tokens = logits.argmax(-1)
        found.append(int(tokens))
    assert found == answer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_needle_is_found_in_fp8_keys_and_values(probe_folder: Any, dtype: torch.dtype) -> None:
    model = LlamaModel(probe_folder, dtype=dtype)
    engine = InferenceEngine(model, EngineOptions(kv=KVOptions(capacity_gib=1, fp8=True)))
    exact = InferenceEngine(model, EngineOptions(kv=KVOptions(capacity_gib=1)))
    for depth in (0.0, 0.7):
        prompt, answer = recall_prompt(2000, depth, chunk=CHUNK)
        assert ask(engine, prompt, GREEDY) == answer
        assert ask(exact, prompt, GREEDY) == answer
    assert engine.statistics().used_bytes < 0.6 * exact.statistics().used_bytes
    engine.close()
    exact.close()


def test_a_prefix_is_computed_once_and_the_answer_is_the_same(engine: InferenceEngine) -> None:
    prompt, answer = recall_prompt(3000, 0.4, chunk=CHUNK)
    first, second = Request("first", prompt, GREEDY), Request("second", prompt, GREEDY)
    other = Request("other", prompt, GREEDY, b"another tenant")
    engine.add(first)
    assert drain(engine)["first"] == answer
    for request in (second, other):
        engine.add(request)
    tokens = drain(engine)
    assert tokens["second"] == tokens["other"] == answer
    assert first.cached_tokens == 0
    assert second.cached_tokens == 2992, "all but what is left of the last page of 16"
    assert other.cached_tokens == 0
    engine.reset_prefix_cache()
    assert engine.statistics().used_bytes == 0
    third = Request("third", prompt, GREEDY)
    engine.add(third)
    assert drain(engine)["third"] == answer
    assert third.cached_tokens == 0


def test_a_conversation_goes_on_where_it_stopped(engine: InferenceEngine) -> None:
    prompt, answer = recall_prompt(2000, 0.7, chunk=CHUNK)
    turn = Request("turn", prompt, GREEDY)
    engine.add(turn)
    assert drain(engine)["turn"] == answer
    follow_up = np.concatenate((prompt, np.array(answer, np.int32), prompt[-40:]))
    again = Request("again", follow_up, GREEDY)
    engine.add(again)
    assert drain(engine)["again"] == answer
    assert again.cached_tokens == 2000, "the prompt and the computed part of the answer, in whole pages"


@pytest.mark.parametrize("host_gib", [0.0, 0.05], ids=["no host tier", "host tier"])
def test_needles_survive_eviction_and_the_host_tier(probe_model: LlamaModel, host_gib: float) -> None:
    """Six documents where there is room for two and a half, asked about in turn, twice."""
    options = KVOptions(capacity_gib=0.012, segment_mib=1, host_gib=host_gib)
    engine = InferenceEngine(probe_model, EngineOptions(kv=options, max_num_batched_tokens=512))
    cases = [recall_prompt(1800, 0.3, seed=seed, chunk=CHUNK) for seed in range(6)]
    for _ in range(2):
        for prompt, answer in cases:
            assert ask(engine, prompt, GREEDY) == answer
    statistics = engine.statistics()
    assert statistics.evicted_tokens > 0
    assert (statistics.restored_tokens > 0) == (host_gib > 0)
    engine.close()


def test_no_room_in_the_middle_sends_the_newest_request_back(
    probe_model: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = InferenceEngine(
        probe_model, EngineOptions(kv=KVOptions(capacity_gib=1, segment_mib=1), max_num_batched_tokens=512)
    )
    cases = {name: recall_prompt(3000, 0.4, seed=ord(name), chunk=CHUNK) for name in "ab"}
    for name, (prompt, _) in cases.items():
        engine.add(Request(name, prompt, GREEDY))
    for _ in range(3):
        engine.step()
    tokens: dict[str, list[int]] = {"a": [], "b": []}

    def step() -> None:
        for output in engine.step():
            assert output.token_id is not None
            tokens[output.request.request_id].append(output.token_id)

    take = SegmentPool.take

    def late(pool: SegmentPool, count: int) -> list[Any]:
        """A neighbour holds the memory until a request was sent back."""
        return take(pool, count) if engine.num_preemptions else no_room(pool, count)

    monkeypatch.setattr(SegmentPool, "take", late)
    while engine.has_work:
        step()
    assert engine.num_preemptions == 1
    assert tokens == {name: answer for name, (_, answer) in cases.items()}
    engine.close()


def test_no_room_for_the_only_request_is_its_error(
    probe_model: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = InferenceEngine(
        probe_model, EngineOptions(kv=KVOptions(capacity_gib=1, segment_mib=1), max_num_batched_tokens=512)
    )
    prompt, answer = recall_prompt(9000, 0.4, chunk=CHUNK)
    with monkeypatch.context() as neighbour:
        neighbour.setattr(SegmentPool, "take", no_room)
        engine.add(Request("a", prompt, GREEDY))
        outputs = []
        while engine.has_work:
            outputs += engine.step()
    assert [output.finish_reason for output in outputs] == [FinishReason.ERROR]
    assert "KV cache" in outputs[0].error
    assert ask(engine, prompt, GREEDY, "again") == answer
    engine.close()


def no_room(pool: SegmentPool, count: int) -> list[Any]:
    raise NoRoomError("a neighbour has it all")


def test_batching_changes_no_answer(engine: InferenceEngine) -> None:
    cases = {str(n): recall_prompt(n, 0.4, seed=n, chunk=CHUNK) for n in (40, 700, 1300, 90, 2000)}
    for name, (prompt, _) in cases.items():
        engine.add(Request(name, prompt, GREEDY))
    assert drain(engine) == {name: answer for name, (_, answer) in cases.items()}


def test_decoding_goes_on_while_another_prompt_is_computed(engine: InferenceEngine) -> None:
    short, _ = recall_prompt(50, 0.4, chunk=CHUNK)
    long, answer = recall_prompt(4000, 0.4, chunk=CHUNK)
    engine.add(Request("short", short, SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)))
    engine.step()
    engine.add(Request("long", long, GREEDY))
    order = []
    while engine.has_work:
        order += [output.request.request_id for output in engine.step()]
    assert order.index("long") >= 7, "eight steps of prefill, a token of the other in each"
    assert order.count("short") == 19
    assert order.count("long") == len(answer)


def test_requests_wait_for_room_and_come_in_order(probe_model: LlamaModel) -> None:
    engine = InferenceEngine(
        probe_model, EngineOptions(kv=KVOptions(capacity_gib=0.004), max_num_batched_tokens=512)
    )
    prompt, answer = recall_prompt(1500, 0.4, chunk=CHUNK)
    for name in "abc":
        engine.add(Request(name, prompt, GREEDY))
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (1, 2)
    tokens = drain(engine)
    assert list(tokens) == ["a", "b", "c"]
    assert all(found == answer for found in tokens.values())


def test_too_long_is_refused_with_the_reason(probe_model: LlamaModel) -> None:
    engine = InferenceEngine(
        probe_model, EngineOptions(kv=KVOptions(capacity_gib=0.001), max_model_len=10_000)
    )
    with pytest.raises(
        InputError, match=r"above this server's maximum context length of 10000.*--max-model-len"
    ):
        engine.check(9_990, 11)
    with pytest.raises(KVCacheError, match="KV cache and there are"):
        engine.check(9_000, 11)
    with pytest.raises(InputError, match="the prompt is empty"):
        engine.check(0, 1)
    with pytest.raises(InputError, match="max_position_embeddings"):
        InferenceEngine(probe_model, EngineOptions(max_model_len=30_000_000))
    with pytest.raises(InputError, match="max_num_seqs is 0"):
        EngineOptions(max_num_seqs=0)


def test_what_fits_only_without_neighbours_is_refused_for_now(
    probe_model: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = HostDriver.memory
    monkeypatch.setattr(HostDriver, "memory", lambda driver: Memory(32 * 2**20, measured(driver).total))
    taken = InferenceEngine(probe_model, EngineOptions(kv=KVOptions(capacity_gib=1)))
    with pytest.raises(KVCacheShrunkError, match=r"KV cache and there are .* now, others hold the rest"):
        taken.check(100_000, 11)
    taken.check(1_000, 11)
    monkeypatch.undo()
    InferenceEngine(probe_model, EngineOptions(kv=KVOptions(capacity_gib=1))).check(100_000, 11)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_abort_gives_room_back_wherever_the_request_stands(engine: InferenceEngine, steps: int) -> None:
    prompt, answer = recall_prompt(1200, 0.4, chunk=CHUNK)
    gone = Request("gone", prompt, GREEDY)
    engine.add(gone)
    engine.add(Request("stays", prompt, GREEDY))
    for _ in range(steps):
        engine.step()
    engine.abort(gone)
    engine.abort(gone)
    assert drain(engine)["stays"] == answer


def test_failure_in_a_step_ends_its_requests_only(
    engine: InferenceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, answer = recall_prompt(300, 0.4, chunk=CHUNK)

    def out_of_memory(pieces: list[Piece]) -> torch.Tensor:
        raise RuntimeError("could not allocate 8 EiB")

    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "forward", out_of_memory)
        engine.add(Request("a", prompt, GREEDY))
        (output,) = engine.step()
    assert output.finish_reason is FinishReason.ERROR
    assert "8 EiB" in output.error
    assert ask(engine, prompt, GREEDY, "b") == answer


def test_end_token_stops_unless_ignored(engine: InferenceEngine) -> None:
    prompt, answer = recall_prompt(300, 0.4, chunk=CHUNK)
    end = WORDS.eos_token_ids[1]
    where = int(np.flatnonzero(prompt == answer[2])[0])
    prompt[where] = end
    assert ask(engine, prompt, SamplingParams(max_tokens=8, temperature=0)) == [*answer[:2], end]
    ignoring = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
    assert len(ask(engine, prompt, ignoring)) == 8
    stopping = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, stop_token_ids=(answer[1],))
    assert ask(engine, prompt, stopping) == answer[:2]


def test_sampling_keeps_to_its_limits() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 1.9, 0.0, -1.0, -5.0])

    def drawn(**changes: Any) -> list[int]:
        params = SamplingParams(seed=7, **changes)
        generator = params.generator()
        return [sample(logits, params, generator) for _ in range(400)]

    assert set(drawn(temperature=0)) == {0}
    assert set(drawn(top_k=2)) == {0, 1}
    assert set(drawn(top_p=0.4)) == {0}
    assert set(drawn(top_p=0.6)) == {0, 1}
    assert set(drawn(temperature=100)) == {0, 1, 2, 3, 4}
    assert drawn() == drawn()
    share = drawn().count(0) / 400
    assert abs(share - float(torch.softmax(logits, 0)[0])) < 0.08


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"max_tokens": 0}, "max_tokens"), ({"temperature": -1}, "temperature"), ({"top_p": 0}, "top_p")],
)
def test_impossible_sampling_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SamplingParams(**changes)
