"""Conversations: what every turn is sent with, what of it can be cached, and what becomes of one that breaks off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import farspan
from builtin_server import address, start
from farspan.errors import InputError
from farspan.measurement.http.answer import AnswerTape
from farspan.measurement.http.wire import read_message
from farspan.measurement.options import TURN_TOKENS
from farspan.measurement.resume import read_last_options
from farspan.measurement.runs.run_folder import load_run
from farspan.measurement.schedule import plan_conversations
from farspan.measurement.turns import list_turns
from farspan.models.probe import vocabulary
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.load_tokenizer import load_tokenizer
from farspan.prompts.shared_prefix import SharedPrefix
from farspan.prompts.turn import Turn, TurnPrompt
from farspan.reports.write_report import Format, render
from farspan.verbs.bench import bench_dry_run, bench_options
from scripted import Script, serve_in_thread


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return farspan.probe(tmp_path_factory.mktemp("conversations") / "recall", heads=2, kv_heads=2).folder


def test_turns_grow_by_the_answer_and_what_they_add() -> None:
    jobs = plan_conversations(
        contexts=[1000, 3000], depths=[0.5], repeats=2, seed=7, output_tokens=16, turns=3, turn_tokens=100
    )
    turned = [job for job in jobs if job.conversation]
    fresh = [job for job in jobs if not job.conversation]
    assert jobs == (*turned, *fresh), "the fresh prompts come when the conversations are over"
    for first in range(0, len(turned), 3):
        turns = turned[first : first + 3]
        begins = turns[0].context
        assert {job.group for job in turns} == {turns[0]}
        assert {job.conversation for job in turns} == {begins}
        assert [job.context for job in turns] == [begins, begins + 116, begins + 232]
        assert [job.expected_cached_tokens for job in turns] == [0, begins + 15, begins + 131]
        assert len({job.group_seed for job in turns}) == 1
        assert len({job.prompt_seed for job in turns}) == 3
    assert sorted(job.context for job in fresh) == sorted(job.context for job in turned if job.member)
    assert len(set(jobs)) == len(jobs)
    assert {job.expected_cached_tokens for job in fresh} == {None}
    alone = plan_conversations(
        contexts=[1000],
        depths=[0.5],
        repeats=1,
        seed=7,
        output_tokens=16,
        turns=3,
        turn_tokens=100,
        cold=False,
    )
    assert [job.member for job in alone] == [0, 1, 2]


@pytest.mark.parametrize(
    "changes",
    [
        {"turns": 1},
        {"turns": 0},
        {"turns": None, "turn_tokens": "1k"},
        {"turns": None, "think_time": 1.0},
        {"turns": None, "skip_cold": True},
        {"turn_tokens": 0},
        {"think_time": -1.0},
        {"think_time": float("nan")},
        {"rate": 1.0},
        {"concurrency": "1,4"},
        {"shared_prefix": "50%"},
        {"requests": 5},
        {"warmup": 1},
        {"api": "chat"},
        {"prompt_as": "text"},
        {"contexts": None, "lengths": "uniform:100,200"},
    ],
)
def test_what_does_not_go_with_it_is_refused(changes: dict[str, Any]) -> None:
    given = {"contexts": [1000], "turns": 3} | changes
    with pytest.raises(InputError):
        bench_options("http://localhost:1", **given).check()


def test_no_turn_plants_what_another_did_and_too_many_are_refused(checkpoint: Path) -> None:
    tokenizer = load_tokenizer(checkpoint)
    planted: list[str] = []
    for number in range(20):
        context = 1000 + number * 116
        shared = SharedPrefix(context - 100, 5) if number else None
        prompt = build_prompt(
            tokenizer, tokens=context, output_tokens=16, seed=number, shared=shared, turn=Turn(5, number)
        )
        turn = TurnPrompt(prompt, 0 if shared is None else shared.tokens, tokenizer)
        own = json.loads(b"[" + b"".join(turn.iter_ids_json()) + b"]")
        assert own == prompt.token_ids[-len(own) :].tolist()
        assert len(own) == (100 if number else 1000)
        planted += turn.answer.split()
    assert len(set(planted)) == len(planted) == 20 * 16
    with pytest.raises(InputError, match="send at most"):
        build_prompt(tokenizer, tokens=5000, output_tokens=200, seed=1, turn=Turn(5, 40))


@pytest.mark.parametrize(
    ("choice", "ids"),
    [
        ({"text": " a", "token_ids": [5, 6]}, (5, 6)),
        ({"text": " a", "logprobs": {"tokens": ["token_id:17", "token_id:4"]}}, (17, 4)),
        ({"text": " a", "logprobs": {"tokens": [" a"]}}, ()),
        ({"text": " a", "logprobs": {"tokens": ["token_id:x"]}}, ()),
        ({"text": " a", "logprobs": None}, ()),
        ({"text": " a", "token_ids": "no"}, ()),
        ({"text": " a", "token_ids": [True, "x"]}, ()),
        ({"delta": {"content": "a"}, "token_ids": [9]}, (9,)),
    ],
)
def test_the_token_ids_of_an_answer(choice: dict[str, Any], ids: tuple[int, ...]) -> None:
    assert read_message({"choices": [choice]}).token_ids == ids


def test_the_token_ids_of_sglangs_own_answer() -> None:
    event = {"text": " a b", "output_ids": [3, 4], "meta_info": {"completion_tokens": 2, "prompt_tokens": 9}}
    assert read_message(event).token_ids == (3, 4)
    assert read_message(event).whole


@pytest.mark.parametrize(
    ("events", "counts", "ids"),
    [
        ([[3], [3, 4]], [1, 2], (3, 4)),  # each has all ids so far
        ([[3], [4]], [9, 9], (3, 4)),  # each has those since the one before it
        ([["x"], ["x", 4]], [1, 2], ()),
        ([["x"], [True]], [9, 9], ()),
    ],
)
def test_the_token_ids_of_sglangs_own_stream(
    events: list[list[Any]], counts: list[int], ids: tuple[int, ...]
) -> None:
    tape = AnswerTape()
    for listed, count in zip(events, counts, strict=True):
        event = {"text": "a", "output_ids": listed, "meta_info": {"completion_tokens": count}}
        tape.add(0.0, f"data: {json.dumps(event)}\n\n".encode())
    assert tape.read().token_ids == ids


def test_the_builtin_engine_finds_every_turn_before_in_its_cache(checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(checkpoint)
    try:
        url = address(process)
        measured = farspan.bench(
            url, contexts=["2k"], turns=3, turn_tokens=200, concurrency=2, repeats=3, run=run, seed=11
        )
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert measured.good
    document = measured.to_json()
    requests = document["requests"]
    assert len(requests) == 3 * 3 + 3 * 2
    assert all(request["score"] == 1.0 for request in requests)
    assert max(request["most_at_once"] for request in requests if request["conversation"]) == 2
    for request in requests:
        assert not {"cache-missed", "warm", "answer-encoded"} & set(request["labels"]), request["evidence"]
        if request["conversation"] and request["member"]:
            assert request["expected_cached_tokens"] == request["context"] - 201
            assert 0 <= request["expected_cached_tokens"] - request["cached_tokens"] < 64, "whole pages"
    turns = document["turns"]
    assert [(turn["turn"], turn["context"], turn["requests"]) for turn in turns] == [
        (1, 2000, 3),
        (2, 2216, 3),
        (3, 2432, 3),
    ]
    assert turns[1]["cacheable_share"] == pytest.approx(2015 / 2216)
    assert turns[0]["warm_ttft_s"] is None
    for turn in turns[1:]:
        assert turn["warm"] == turn["cold"] == 3
        assert turn["warm_ttft_s"] < turn["cold_ttft_s"]
        assert turn["ratio"] == turn["warm_ttft_s"] / turn["cold_ttft_s"]
    assert document["shared_prefixes"] == [], "they are in a table of their own"
    text = render([run], Format.MARKDOWN)
    assert "## Conversations: every turn cold and warm" in text
    assert "| 2,000 | 0.5 | 2 | 2,216 | 2,015 (90.9%) |" in text
    assert json.loads(render([run], Format.JSON))["runs"][0]["turns"] == json.loads(json.dumps(turns))
    assert 'id="turns"' in render([run], Format.HTML)
    options, _ = read_last_options(run)
    assert (options.turns, options.turn_tokens, options.think_time_s, options.skip_cold) == (
        3,
        200,
        0.0,
        False,
    )


def test_a_short_answer_is_filled_up_and_one_without_ids_encoded_again(
    checkpoint: Path, tmp_path: Path
) -> None:
    known = vocabulary().tokens
    with serve_in_thread() as server:
        server.card = {"id": "recall", "owned_by": "someone", "root": str(checkpoint)}
        server.scripts = [Script(recall=True, stop_after=5), Script(recall=True, cached_tokens=400)]
        measured = farspan.bench(
            server.url,
            contexts=["500"],
            turns=2,
            turn_tokens=100,
            skip_cold=True,
            run=tmp_path / "run",
            metrics_interval=0,
        )
        first, second = (request["prompt"] for request in server.requests)
    one, two = measured.outcomes[""].results
    assert len(first) == 500
    assert len(second) == 500 + 16 + 100 == two.context
    assert second[:500] == first
    said = [known.index(word) for word in one.reply.split()]
    assert second[500:505] == said
    assert len(set(second[505:516])) == 1, "filled up"
    assert two.expected_cached_tokens == 500 + 5 - 1
    assert "encoded again from its text" in two.evidence["answer-encoded"]
    assert "answer-encoded" not in one.labels
    assert two.job.shared_tokens == 500 + 16 - 1
    assert load_run(tmp_path / "run").results == (one, two)


def test_fields_that_ask_for_ids_go_to_engines_that_have_them(checkpoint: Path, tmp_path: Path) -> None:
    with serve_in_thread() as server:
        for number, (owner, asked) in enumerate((("vllm", True), ("sglang", False))):
            server.card = {"id": "recall", "owned_by": owner, "root": str(checkpoint)}
            server.script = Script(recall=True)
            server.requests.clear()
            options: dict[str, Any] = {
                "contexts": ["300"],
                "run": tmp_path / str(number),
                "metrics_interval": 0,
            }
            farspan.bench(server.url, turns=2, skip_cold=True, turn_tokens=60, **options)
            assert ["return_tokens_as_token_ids" in request for request in server.requests] == [asked] * 2
        server.requests.clear()
        farspan.bench(server.url, contexts=["300"], run=tmp_path / "plain", metrics_interval=0)
        assert "logprobs" not in server.requests[0]


def test_what_follows_a_turn_that_failed_is_not_sent_and_a_resumed_run_begins_it_anew(
    checkpoint: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with serve_in_thread() as server:
        server.card = {"id": "recall", "owned_by": "vllm", "root": str(checkpoint)}
        server.script = Script(recall=True)
        server.scripts = [Script(recall=True), Script(status=500)]
        given: dict[str, Any] = {
            "contexts": ["300"], "turns": 3, "turn_tokens": 60, "run": run, "metrics_interval": 0, "think_time": 0.01,
        }  # fmt: skip
        broken = farspan.bench(server.url, **given)
        outcome = broken.outcomes[""]
        assert not broken.good
        assert (outcome.unsent, outcome.stopped) == (1, "a turn of 1 conversations failed")
        assert [(r.member, r.status.value) for r in outcome.results if r.conversation] == [
            (0, "ok"),
            (1, "server_error"),
        ]
        assert sum(not result.conversation for result in outcome.results) == 2, (
            "the fresh prompts are sent all the same"
        )
        point = list_turns(outcome.results)[1]
        assert (point.requests, point.failed) == (1, 1)
        first = server.requests[0]["prompt"]
        server.requests.clear()
        whole = farspan.bench(run=run, resume=True, metrics_interval=0)
        assert whole.good
        assert [len(request["prompt"]) for request in server.requests] == [300, 376, 452]
        assert server.requests[0]["prompt"] != first, "the server may have that one cached"
    assert len(load_run(run).results) == 5


def test_a_turn_that_holds_no_needle_names_the_option(checkpoint: Path, tmp_path: Path) -> None:
    with serve_in_thread() as server:
        server.card = {"id": "recall", "owned_by": "vllm", "root": str(checkpoint)}
        with pytest.raises(InputError, match=r"turn 2 of a conversation: .*raise --turn-tokens"):
            farspan.bench(server.url, contexts=["500"], turns=2, turn_tokens=5, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_counts_turns() -> None:
    plan = bench_dry_run(None, contexts=["1k"], turns=4, concurrency=2, repeats=5)
    assert plan.requests == 5 * 4 + 5 * 3
    assert str(1000 + 3 * (16 + TURN_TOKENS)) in plan.by_context
