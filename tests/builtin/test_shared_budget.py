"""Two built-in servers on one budget: memory goes where the load is; limits and trims reach them, also over HTTP."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import farspan
from builtin_server import address, engine_of, start, suspended
from farspan.errors import InputError
from farspan.kv.memory.budget.budget_file import FOLDER_VARIABLE
from farspan.kv.memory.budget.control import BudgetServer
from farspan.kv.memory.budget.neighbours import SILENT_S
from recall_prompts import recall_prompt

MIB = 2**20
LIMIT = 16 * MIB
TOKENS = 8_000  # most of the budget: two such prompts do not fit beside each other


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("budgets")
    made.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(made))
        yield made


def start_two(model: Path) -> list[subprocess.Popen[str]]:
    words = (
        "--kv-budget",
        "shared",
        "--kv-budget-limit",
        str(LIMIT),
        "--kv-segment-mib",
        "1",
        "--max-num-batched-tokens",
        "512",
    )
    return [start(model, *words, "--kv-quiet-s", "60", "--served-model-name", name) for name in ("a", "b")]


@pytest.fixture(scope="module")
def pair(probe_folder: Path, folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    servers = start_two(probe_folder)
    try:
        yield servers
    finally:
        for server in servers:
            server.terminate()
            assert server.wait(timeout=60) in (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def urls(pair: list[subprocess.Popen[str]]) -> tuple[str, str]:
    return address(pair[0]), address(pair[1])


def member(name: str) -> BudgetServer:
    (budget,) = farspan.kv_status().budgets
    return next(server for server in budget.servers if server.name == name)


def within(seconds: float, holds: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, farspan.kv_status().to_json()
        time.sleep(0.05)


def served(url: str, seed: int) -> bool:
    reply = ask(url, TOKENS, seed)
    assert reply.status_code == 200, reply.text
    return True


def ask(url: str, tokens: int, seed: int) -> httpx.Response:
    prompt, _ = recall_prompt(tokens, 0.3, chunk=256, seed=seed)
    body = {"prompt": prompt.tolist(), "max_tokens": 4, "temperature": 0}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=600)


def test_cached_prefixes_of_an_idle_server_make_room_for_a_loaded_one(urls: tuple[str, str]) -> None:
    one, two = urls
    assert served(one, 1)
    held = member("a").held
    assert held > LIMIT / 2
    assert served(two, 2)
    assert member("b").held > LIMIT / 2
    assert member("a").held < held
    (budget,) = farspan.kv_status().budgets
    assert budget.held <= LIMIT
    assert served(one, 3)


def test_a_neighbour_that_looks_late_is_waited_for(
    pair: list[subprocess.Popen[str]], urls: tuple[str, str]
) -> None:
    one, two = urls
    assert served(one, 4)
    replies: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: replies.append(ask(two, TOKENS, 5)))
    with suspended(engine_of(pair[0])):
        asking.start()
        within(60, lambda: member("b").wished > 0)
        asking.join(timeout=5)
        assert asking.is_alive(), f"it is not refused: {replies[0].text}"
    asking.join()
    assert replies[0].status_code == 200, replies[0].text


def test_a_neighbour_that_is_stopped_is_named_and_not_waited_for(
    pair: list[subprocess.Popen[str]], urls: tuple[str, str]
) -> None:
    one, two = urls
    assert served(one, 6)
    engine = engine_of(pair[0])
    with suspended(engine):
        for _ in range(2):  # known to be silent, it is not waited for again
            reply = ask(two, TOKENS, 7)
            assert reply.status_code == 503, reply.text
            message = reply.json()["error"]["message"]
            assert f"a (process {engine.pid}) holds " in message
            silent = re.search(r"and has not looked at the budget for (\d+) s", message)
            assert silent is not None, message
            assert int(silent[1]) >= SILENT_S
            assert "it is stopped, or hangs" in message
        small, _ = recall_prompt(200, 0.3, chunk=256, seed=8)
        body = {"prompt": small.tolist(), "max_tokens": 4, "temperature": 0}
        assert httpx.post(f"{two}/v1/completions", json=body, timeout=600).status_code == 200
    assert served(two, 7)


def test_limit_and_trim_reach_a_server_over_http(urls: tuple[str, str]) -> None:
    one, _ = urls
    assert served(one, 1)
    before = member("a").held
    status = farspan.kv_limit(before // 2, server="a", url=one)
    assert status.budgets[0].limit == LIMIT
    within(60, lambda: member("a").held <= before // 2)
    assert farspan.kv_limit("none", server="a", url=one).budgets[0].servers[0].limit is None
    assert served(one, 2)
    httpx.post(f"{one}/reset_prefix_cache").raise_for_status()
    within(60, lambda: member("a").idle > 0)
    done = farspan.kv_trim(url=one)
    assert done.given_back > 0
    assert done.late == ()
    with pytest.raises(InputError, match="has no server 'nobody'"):
        farspan.kv_limit("9MiB", server="nobody", url=one)


def test_a_server_that_is_killed_leaves_no_hole(
    probe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    servers = start_two(probe_folder)
    try:
        one, two = address(servers[0]), address(servers[1])
        assert served(one, 1)
        assert member("a").held > LIMIT / 2
        servers[0].send_signal(signal.SIGSTOP)  # it gives nothing back any more
        servers[0].kill()
        within(60, lambda: [server.name for server in farspan.kv_status().budgets[0].servers] == ["b"])
        assert served(two, 2)
        assert member("b").held > LIMIT / 2
    finally:
        for server in servers:
            server.kill()
            server.wait()


def test_a_server_without_a_budget_says_so(probe_folder: Path) -> None:
    server = start(probe_folder, "--kv-cache-gib", "0.1")
    try:
        with pytest.raises(InputError, match="this server shares no budget; start it with --kv-budget NAME"):
            farspan.kv_status(url=address(server))
    finally:
        server.terminate()
        server.wait(timeout=60)


def test_a_key_guards_the_routes(probe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("FARSPAN_API_KEY", "secret")
    server = start(probe_folder, "--kv-budget", "shared")
    try:
        url = address(server)
        assert httpx.get(f"{url}/kv/status").status_code == 401
        assert httpx.post(f"{url}/kv/trim", json={}).status_code == 401
        assert farspan.kv_status(url=url, api_key_env="FARSPAN_API_KEY").budgets[0].budget == "shared"
    finally:
        server.terminate()
        server.wait(timeout=60)


def test_a_hostile_budget_file_ends_a_start_with_one_line(
    probe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "shared@host.budget").write_bytes(b"garbage")
    (tmp_path / "shared@host.budget").chmod(0o600)
    server = start(probe_folder, "--kv-budget", "shared")
    output = server.communicate(timeout=120)[1] or ""
    assert server.returncode == 2
    assert "shared@host.budget is damaged: it has 7 bytes and not 16640; remove it" in str(output)
    assert "Traceback" not in str(output)
