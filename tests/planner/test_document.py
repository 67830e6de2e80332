"""The plan document: what is written is read again, whole, and what is no plan is refused with a reason."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.engines.engine import Engine
from farspan.engines.registry import all_engines, get_engine
from farspan.errors import FarspanError, InputError, UnsupportedError
from farspan.hardware.node_spelling import parse_node
from farspan.models.config import load_model
from farspan.models.spec import KvDtype
from farspan.planner.build_document import build_plan, build_search, build_search_by_gpu, build_sweep
from farspan.planner.document import (
    FORMAT_VERSION,
    PlanDocument,
    SearchByGpu,
    SearchPlan,
    SinglePlan,
    SweepPlan,
)
from farspan.planner.levers import find_fix
from farspan.planner.plan import plan_engines
from farspan.planner.questions import Question, search
from farspan.planner.request import PlanRequest
from farspan.planner.sweep import sweep

MODELS = ("llama-4-scout", "llama-3.1-8b", "qwen3-32b", "deepseek-v3", "gpt-oss-120b", "gemma-4-26b-a4b")
REQUESTS = st.builds(
    lambda model, gpus, context, concurrency, kv_dtype: _request(model, gpus, context, concurrency, kv_dtype),
    st.sampled_from(MODELS),
    st.sampled_from(("8xH200", "8xH100", "1xH200", "4xB200", "2xA100-80GB")),
    st.sampled_from((4096, 32_768, 131_072, 1_000_000, 10_000_000)),
    st.integers(1, 40),
    st.sampled_from((KvDtype.AUTO, KvDtype.FP8_E4M3)),
)
ENGINES = all_engines()
ENGINE_SETS = st.sampled_from((ENGINES, *((engine,) for engine in ENGINES)))


def _request(model: str, gpus: str, context: int, concurrency: int, kv_dtype: KvDtype) -> PlanRequest:
    node, spec = parse_node(gpus), load_model(model, allow_network=False)
    return PlanRequest(spec, node.gpu, node.count, node.count, context, concurrency, kv_dtype)


def _scout(context: int = 10_000_000, concurrency: int = 1) -> PlanRequest:
    return _request("llama-4-scout", "8xH200", context, concurrency, KvDtype.AUTO)


def _plan(request: PlanRequest, engines: tuple[Engine, ...] = ENGINES) -> SinglePlan:
    plans, refusals = plan_engines(request, engines)
    fixes = {
        plan.engine: find_fix(request, plan, get_engine(plan.engine))
        for plan in plans
        if not plan.fits_with_defaults
    }
    return build_plan(request, plans, refusals, fixes)


def _check_round_trip(document: PlanDocument) -> None:
    written = orjson.dumps(document.to_json())
    value = orjson.loads(written)
    assert value["format_version"] == FORMAT_VERSION
    for kind in (PlanDocument, type(document)):
        assert kind.from_json(value) == document
    assert orjson.dumps(PlanDocument.from_json(value).to_json()) == written


@given(REQUESTS, ENGINE_SETS)
@settings(max_examples=40)
def test_a_plan_is_read_as_it_was_written(request: PlanRequest, engines: tuple[Engine, ...]) -> None:
    try:
        document = _plan(request, engines)
    except FarspanError:
        return  # nothing can be planned, so nothing is written
    _check_round_trip(document)
    assert document.engines == tuple(document.to_json()["engines"])
    for engine in document.engines:
        (plan,) = document.answers_of(engine)
        assert (plan.context, plan.engine) == (request.context, engine)


@given(REQUESTS, ENGINE_SETS, st.lists(st.sampled_from((8192, 100_000, 1_000_000, 20_000_000)), min_size=1))
@settings(max_examples=40)
def test_a_sweep_is_read_as_it_was_written(
    request: PlanRequest, engines: tuple[Engine, ...], contexts: list[int]
) -> None:
    document = build_sweep(request, sweep(request, contexts, engines))
    _check_round_trip(document)
    for engine in engines:
        assert [point.context for point in document.answers_of(engine.name)] == sorted(contexts)


@given(REQUESTS, ENGINE_SETS, st.sampled_from(Question))
@settings(max_examples=25)
def test_a_search_is_read_as_it_was_written(
    request: PlanRequest, engines: tuple[Engine, ...], question: Question
) -> None:
    try:
        found = search(request, question, engines)
    except FarspanError:
        return
    document = build_search(request, question, found)
    _check_round_trip(document)
    _check_round_trip(build_search_by_gpu(question, {"H200": document, "B200": document}))


@cache
def _documents() -> tuple[dict[str, Any], ...]:
    request = _scout(1_000_000, 4)
    searched = build_search(request, Question.CONTEXT, search(request, Question.CONTEXT, ENGINES))
    return (
        _plan(_scout(concurrency=4)).to_json(),
        build_sweep(request, sweep(request, (131_072, 10_000_000), ENGINES)).to_json(),
        searched.to_json(),
        build_search_by_gpu(Question.CONTEXT, {"H200": searched}).to_json(),
    )


def _places(value: object, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, as the keys that lead to it."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [place, *(found for key, item in inner for found in _places(item, (*place, key)))]


@given(st.data())
@settings(max_examples=120)
def test_a_damaged_document_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    for version in (1, FORMAT_VERSION):
        value = orjson.loads(orjson.dumps(data.draw(st.sampled_from(_documents()))))
        value["format_version"] = version
        places = st.sampled_from([place for place in _places(value) if place])
        *path, last = data.draw(places)
        holder = value
        for key in path:
            holder = holder[key]
        holder[last] = data.draw(st.sampled_from((None, "x", 7, -1.5, True, [], [None], {}, {"x": "y"})))
        try:
            document = PlanDocument.from_json(value)
        except InputError:
            continue
        assert PlanDocument.from_json(document.to_json()) == document or version == 1


def _refusal(value: object) -> str:
    try:
        PlanDocument.from_json(value, "plan.json")
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("index", range(4))
def test_a_missing_key_is_named(index: int) -> None:
    whole = _documents()[index]
    # Names of engines and kinds of GPU, pools and printed figures are free; these keys say which kind it is.
    free, kind = (
        {"engines", "by_gpu", "printed", "pools", "env"},
        {"format_version", "find", *("points", "engines")},
    )
    for place in filter(None, _places(whole)):
        *path, last = place
        if not isinstance(last, str) or last in kind or (path and path[-1] in free) or last == "by_gpu":
            continue
        value = orjson.loads(orjson.dumps(whole))
        holder = value
        for key in path:
            holder = holder[key]
        del holder[last]
        refusal = _refusal(value)
        if refusal:
            assert refusal.startswith("plan.json cannot be used: ")
            # A refused point without its mark lacks what a planned one has.
            assert f"{last} is missing" in refusal or last == "refused"
        else:
            # The key is worked out of others, or says itself that something else is not there.
            same = PlanDocument.from_json(value).to_json() == whole
            assert same or last in ("refused", "version"), place


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "it is not a JSON object"),
        ([], "it is not a JSON object"),
        ({}, "it names no engine"),
        ({"engines": {}}, "it names no engine"),
        ({"points": []}, "it names no engine"),
        ({"by_gpu": {}, "find": "gpus"}, "it names no engine"),
        ({"format_version": "2", "engines": {"vllm": {}}}, "its format_version is '2'"),
        ({"format_version": True, "engines": {"vllm": {}}}, "its format_version is True"),
        ({"format_version": 0, "engines": {"vllm": {}}}, "its format_version is 0"),
        ({"format_version": 2, "engines": {"vllm": {}}}, "model is missing"),
    ],
)
def test_what_is_no_plan_is_refused_with_the_reason(value: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        PlanDocument.from_json(value)


def test_a_newer_format_is_refused_and_says_what_reads_it() -> None:
    newer = {**_documents()[0], "format_version": FORMAT_VERSION + 1}
    with pytest.raises(UnsupportedError, match="format version 3, and this farspan reads up to 2"):
        PlanDocument.from_json(newer)


def test_another_kind_is_refused_by_name() -> None:
    single, swept, searched, by_gpu = _documents()
    for kind, other, words in (
        (SinglePlan, swept, "is a plan of several contexts, not a plan of one context"),
        (SweepPlan, searched, "is a search, not a plan of several contexts"),
        (SearchPlan, by_gpu, "is a search for several kinds of GPU, not a search"),
        (SearchByGpu, single, "is a plan of one context, not a search for several kinds of GPU"),
    ):
        with pytest.raises(InputError, match=words):
            kind.from_json(other)


def test_a_wrong_type_is_said_with_its_place() -> None:
    value = orjson.loads(orjson.dumps(_documents()[0]))
    value["engines"]["vllm"]["ledger"][2]["bytes"] = "many"
    with pytest.raises(InputError, match=r"engines\.vllm\.ledger\[2\]\.bytes is not a whole number"):
        PlanDocument.from_json(value)


@pytest.mark.parametrize("index", range(4))
def test_a_document_without_a_version_is_version_1(index: int) -> None:
    whole = _documents()[index]
    old = {
        key: value
        for key, value in whole.items()
        if key not in ("format_version", "parameters", "kv_bytes_per_token")
    }
    read, new = PlanDocument.from_json(old), PlanDocument.from_json(whole)
    for one, other in zip(read.parts, new.parts, strict=True):
        assert one.engines == other.engines
        for engine in one.engines:
            assert one.answers_of(engine) == other.answers_of(engine)
    if index < 3:
        assert read.parts[0].request.parameters is None
        assert read.parts[0].request.kv_bytes_per_token is None


def test_the_model_is_measured_in_the_document() -> None:
    request = _plan(_scout()).request
    assert request.parameters is not None
    # 17B active of 109B by the model's name, which counts the embedding: 202,048 rows of 5,120 that are only looked up.
    assert round(request.parameters.total / 1e9) == 109
    assert round((request.parameters.active + 202_048 * 5120) / 1e9) == 17
    # 48 layers of 8 KV heads of 128, keys and values, two bytes each.
    assert request.kv_bytes_per_token == 48 * 8 * 128 * 2 * 2
    assert "kv_bytes_per_token" in SweepPlan.from_json(_documents()[1]).to_json()


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as a plan"):
        PlanDocument.load(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"engines": ')
    with pytest.raises(InputError, match="cannot be read as a plan"):
        PlanDocument.load(tmp_path / "half.json")


def test_notes_stand_beside_warnings_and_version_1_has_none() -> None:
    value = orjson.loads(orjson.dumps(_documents()[0]))
    entry = value["engines"]["vllm"]
    assert any("figures are for the whole server" in note for note in entry["notes"])
    assert not any("figures are for the whole server" in warning for warning in entry["warnings"])
    alone = _plan(_scout(), (get_engine("vllm"),)).to_json()
    assert alone["warnings"] == alone["engines"]["vllm"]["warnings"]
    assert alone["notes"] == list(load_model("llama-4-scout").notes)
    del entry["notes"], value["format_version"]
    (old,) = PlanDocument.from_json(value).answers_of("vllm")
    assert old.notes == ()
    assert list(old.warnings) == entry["warnings"]
