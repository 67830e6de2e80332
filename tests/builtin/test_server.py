"""The server over HTTP: OpenAI's shapes, exact counts, clear refusals, nothing left running."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from builtin_server import address, metrics, post, start
from farspan.builtin.__main__ import serve
from farspan.builtin.model import LlamaModel
from farspan.diagnosis.examine import examine
from farspan.engines.logs.records import StartPhase
from recall_prompts import WORDS, recall_prompt

CHUNK = 256


@pytest.fixture(scope="module")
def url(probe_folder: Path) -> Iterator[str]:
    process = start(probe_folder, "--kv-cache-gib", "0.5", "--max-num-batched-tokens", "512")
    try:
        yield address(process)
    finally:
        process.terminate()
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)


def events(url: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with httpx.stream("POST", url + path, json={**body, "stream": True}, timeout=300) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        data = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert data[-1] == "[DONE]"
    return [json.loads(item) for item in data[:-1]]


def words(token_ids: list[int]) -> str:
    return " ".join(WORDS.tokens[i] for i in token_ids)


def test_completion_from_token_ids(url: str) -> None:
    prompt, answer = recall_prompt(2000, 0.3, chunk=CHUNK)
    body = {"model": "probe", "prompt": prompt.tolist(), "max_tokens": 4, "temperature": 0}
    reply = post(url, "/v1/completions", body).json()
    assert reply["object"] == "text_completion"
    assert reply["choices"][0]["text"].split() == words(answer).split()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"] == {
        "prompt_tokens": 2000,
        "completion_tokens": 4,
        "total_tokens": 2004,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_completion_from_text_adds_bos_unless_told(url: str) -> None:
    text = words(recall_prompt(100, 0.3, chunk=CHUNK)[0][1:].tolist())
    body = {"prompt": text, "max_tokens": 1}
    assert post(url, "/v1/completions", body).json()["usage"]["prompt_tokens"] == 100
    body["add_special_tokens"] = False
    assert post(url, "/v1/completions", body).json()["usage"]["prompt_tokens"] == 99


def test_streamed_completion_is_the_same_answer(url: str) -> None:
    prompt, answer = recall_prompt(700, 0.3, chunk=CHUNK)
    body = {
        "prompt": prompt.tolist(),
        "max_tokens": 4,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    got = events(url, "/v1/completions", body)
    pieces = [event["choices"][0] for event in got if event["choices"]]
    assert "".join(piece["text"] for piece in pieces).split() == words(answer).split()
    assert [piece["finish_reason"] for piece in pieces] == [None, None, None, "length"]
    assert got[-1]["choices"] == []
    assert got[-1]["usage"]["prompt_tokens"] == 700
    assert got[-1]["usage"]["completion_tokens"] == 4
    assert got[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_chat(url: str) -> None:
    prompt, answer = recall_prompt(500, 0.3, chunk=CHUNK)
    # The header takes four tokens, so the needle moves; this one stays clear of chunk ends.
    messages = [{"role": "user", "content": words(prompt[1:].tolist())}]
    body = {"messages": messages, "max_completion_tokens": 4, "temperature": 0}
    reply = post(url, "/v1/chat/completions", body).json()
    assert reply["object"] == "chat.completion"
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": words(answer)}
    counted = post(url, "/tokenize", {"messages": messages}).json()["count"]
    assert reply["usage"]["prompt_tokens"] == counted == 503
    got = events(url, "/v1/chat/completions", body)
    deltas = [event["choices"][0]["delta"] for event in got]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta["content"] for delta in deltas).split() == words(answer).split()


def test_stop_string_ends_the_answer_and_is_left_out(url: str) -> None:
    prompt, answer = recall_prompt(300, 0.3, chunk=CHUNK)
    third = WORDS.tokens[answer[2]]
    body = {"prompt": prompt.tolist(), "max_tokens": 9, "temperature": 0, "stop": [third[:3], "never"]}
    choice = post(url, "/v1/completions", body).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["text"].split() == words(answer[:2]).split()
    streamed = events(url, "/v1/completions", body)
    text = "".join(event["choices"][0]["text"] for event in streamed)
    assert text == choice["text"]


def test_the_server_tells_every_setting_by_its_flag(url: str) -> None:
    settings = httpx.get(f"{url}/server_info").json()
    flags = {option.name for option in serve.params} - {"folder", "host", "port", "served_model_name"}
    assert set(settings) - {"version"} == flags
    assert settings["kv_cache_gib"] == 0.5
    assert settings["max_num_batched_tokens"] == 512
    assert settings["max_model_len"] == 20_000_000
    assert settings["kv_cache_dtype"] == "auto"
    assert settings["enable_prefix_caching"] is True


def test_models_version_health_and_tokens(url: str, probe_folder: Path) -> None:
    (model,) = httpx.get(f"{url}/v1/models").json()["data"]
    assert model["id"] == "probe"
    assert model["root"] == str(probe_folder)
    assert model["max_model_len"] == 20_000_000
    assert httpx.get(f"{url}/health").status_code == 200
    assert httpx.get(f"{url}/version").json()["engine"] == "farspan-builtin"
    reply = post(url, "/tokenize", {"prompt": words([20, 2100])}).json()
    assert reply == {"count": 3, "max_model_len": 20_000_000, "tokens": [0, 20, 2100]}
    assert post(url, "/detokenize", {"tokens": [20, 2100]}).json() == {"prompt": words([20, 2100])}


def test_metrics_count_what_was_done(url: str) -> None:
    before = metrics(url)
    prompt, _ = recall_prompt(600, 0.3, chunk=CHUNK)
    post(url, "/v1/completions", {"prompt": prompt.tolist(), "max_tokens": 3, "ignore_eos": True})
    after = metrics(url)

    def gained(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert gained("farspan:prompt_tokens_total") == 600
    assert gained("farspan:generation_tokens_total") == 3
    assert gained("farspan:prefix_cache_queries_total") == 600
    assert gained("farspan:prefix_cache_hits_total") == 0
    assert gained("farspan:time_to_first_token_seconds_count") == 1
    assert gained("farspan:inter_token_latency_seconds_count") == 2
    assert gained("farspan:request_success_total") == 1
    assert after["farspan:num_requests_running"] == 0
    assert after["farspan:kv_cache_usage_perc"] == 0
    assert after["farspan:kv_cache_capacity_bytes"] == 2**29


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/v1/completions", {"prompt": [1, 2], "n": 2}, 400, "n: Input should be 1"),
        (
            "/v1/completions",
            {"prompt": [1, 2], "logit_bias": {}},
            400,
            "does not know the field 'logit_bias'",
        ),
        ("/v1/completions", {"prompt": [1, 4096]}, 400, "token id outside 0 to 4095"),
        ("/v1/completions", {"prompt": [[1, 2]]}, 400, "one prompt a request"),
        ("/v1/completions", {"prompt": ["a"]}, 400, "one prompt a request"),
        ("/v1/completions", {"prompt": []}, 400, "one token"),
        ("/v1/completions", {}, 400, "neither a text nor a list"),
        ("/v1/completions", {"prompt": [1], "model": "gpt"}, 404, "no model 'gpt'; it serves 'probe'"),
        ("/v1/completions", {"prompt": [1], "max_tokens": 0}, 400, "max_tokens"),
        (
            "/v1/completions",
            {"prompt": [1], "max_tokens": 20_000_001},
            400,
            "maximum context length of 20000000",
        ),
        (
            "/v1/completions",
            {"prompt": [1], "max_tokens": 10_000_000},
            400,
            "of KV cache and there are 512 MiB",
        ),
        ("/v1/completions", {"prompt": [1], "stream": True, "temperature": -1}, 400, "temperature"),
        ("/v1/chat/completions", {"messages": []}, 400, "messages"),
        (
            "/v1/chat/completions",
            {"messages": [{"content": "no role"}], "max_tokens": 1},
            400,
            "messages.0.role: Field required",
        ),
        ("/tokenize", {}, 400, "either prompt or messages"),
    ],
)
def test_refusals_say_why(url: str, path: str, body: dict[str, Any], status: int, said: str) -> None:
    reply = post(url, path, body)
    assert reply.status_code == status
    assert said in reply.json()["error"]["message"]
    assert "\n" not in reply.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"prompt": "a"'])
def test_bodies_that_are_not_json_objects(url: str, body: bytes) -> None:
    reply = httpx.post(f"{url}/v1/completions", content=body)
    assert reply.status_code == 400
    assert "the body is not" in reply.json()["error"]["message"]


def test_leaving_early_frees_the_engine(url: str) -> None:
    """A client that hangs up in the middle of a long answer must not hold its KV cache."""
    body = {"prompt": [20, 21, 22], "max_tokens": 15_000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=300) as response:
        lines = response.iter_lines()
        for _ in range(5):
            next(lines)
        assert metrics(url)["farspan:num_requests_running"] == 1
    deadline = time.monotonic() + 60
    while metrics(url)["farspan:num_requests_running"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert metrics(url)["farspan:num_requests_running"] == 0
    assert metrics(url)["farspan:kv_cache_promised_bytes"] == 0


def test_api_key(probe_folder: Path) -> None:
    process = start(probe_folder, FARSPAN_API_KEY="sesame")
    try:
        url = address(process)
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/v1/models").status_code == 401
        wrong = {"Authorization": "Bearer Sesame"}
        assert httpx.get(f"{url}/v1/models", headers=wrong).status_code == 401
        right = {"Authorization": "Bearer sesame"}
        assert httpx.get(f"{url}/v1/models", headers=right).status_code == 200
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_interrupt_ends_the_server_in_the_middle_of_a_request(probe_folder: Path) -> None:
    process = start(probe_folder, "--kv-cache-gib", "1")
    url = address(process)
    body = {"prompt": [20, 21, 22], "max_tokens": 15_000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=300) as response:
        next(response.iter_lines())
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) in (0, 130, -signal.SIGINT)


def test_its_log_tells_the_phases_of_the_start(
    probe_folder: Path, probe_model: LlamaModel, tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    with log.open("wb") as file:
        process = start(probe_folder, output=file)
        try:
            while b"http://" not in log.read_bytes():
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
    report = examine([log.read_bytes()])
    phases = [entry.phase for entry in report.timeline]
    assert phases[:3] == [StartPhase.ENGINE, StartPhase.WEIGHTS, StartPhase.READY]
    loaded = report.timeline[1]
    assert loaded.gib == pytest.approx(probe_model.weight_bytes / 2**30, abs=0.001)
    assert None not in [entry.at for entry in report.timeline]
    assert (report.engine, report.findings) == ("builtin", ())


def failing(*arguments: str) -> str:
    process = start(*arguments)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in error
    return error


def test_bad_starts_are_one_clear_line(probe_folder: Path, tmp_path: Path) -> None:
    assert failing(str(tmp_path)).strip() == (
        f"farspan: {tmp_path} has no config.json; give a Hugging Face checkpoint folder"
    )
    assert "is not a folder" in failing(str(tmp_path / "none"))
    assert "not a token count" in failing(str(probe_folder), "--max-model-len", "lots")
    assert "max_position_embeddings" in failing(str(probe_folder), "--max-model-len", "30M")
    assert "--kv-fixed has no size; add --kv-cache-gib" in failing(str(probe_folder), "--kv-fixed")
    assert "is above the most" in failing(str(probe_folder), "--kv-cache-gib", "1", "--kv-initial", "2GiB")
    assert "torch sees no CUDA device" in failing(str(probe_folder), "--device", "cuda")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = failing(str(probe_folder), "--port", port)
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "choose another --port" in said
