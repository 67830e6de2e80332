"""Two built-in servers on one budget: memory goes where the load is; limits and trims reach them, also over HTTP."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import farspan
from builtin_server import address, post, start
from farspan.errors import InputError
from farspan.kv.memory.budget.budget_file import FOLDER_VARIABLE
from farspan.kv.memory.budget.control import BudgetServer
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
def urls(probe_folder: Path, folder: Path) -> Iterator[tuple[str, str]]:
    servers = start_two(probe_folder)
    try:
        yield address(servers[0]), address(servers[1])
    finally:
        for server in servers:
            server.terminate()
            assert server.wait(timeout=20) in (0, -signal.SIGTERM)


def member(name: str) -> BudgetServer:
    (budget,) = farspan.kv_status().budgets
    return next(server for server in budget.servers if server.name == name)


def within(seconds: float, holds: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, farspan.kv_status().to_json()
        time.sleep(0.05)


def ask(url: str, tokens: int, seed: int) -> int:
    prompt, _ = recall_prompt(tokens, 0.3, chunk=256, seed=seed)
    body = {"prompt": prompt.tolist(), "max_tokens": 4, "temperature": 0}
    return post(url, "/v1/completions", body).status_code


def test_cached_prefixes_of_an_idle_server_make_room_for_a_loaded_one(urls: tuple[str, str]) -> None:
    one, two = urls
    assert ask(one, TOKENS, 1) == 200
    held = member("a").held
    assert held > LIMIT / 2
    # On a busy machine the idle server may take longer to let go than the request waits: a 503, to be sent again.
    within(30, lambda: ask(two, TOKENS, 2) == 200)
    assert member("b").held > LIMIT / 2
    assert member("a").held < held
    (budget,) = farspan.kv_status().budgets
    assert budget.held <= LIMIT
    within(30, lambda: ask(one, TOKENS, 3) == 200)


def test_limit_and_trim_reach_a_server_over_http(urls: tuple[str, str]) -> None:
    one, _ = urls
    assert ask(one, TOKENS, 1) == 200
    before = member("a").held
    status = farspan.kv_limit(before // 2, server="a", url=one)
    assert status.budgets[0].limit == LIMIT
    within(10, lambda: member("a").held <= before // 2)
    assert farspan.kv_limit("none", server="a", url=one).budgets[0].servers[0].limit is None
    assert ask(one, TOKENS, 2) == 200
    httpx.post(f"{one}/reset_prefix_cache").raise_for_status()
    within(10, lambda: member("a").idle > 0)
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
        assert ask(one, TOKENS, 1) == 200
        assert member("a").held > LIMIT / 2
        servers[0].send_signal(signal.SIGSTOP)  # it gives nothing back any more
        servers[0].kill()
        within(10, lambda: [server.name for server in farspan.kv_status().budgets[0].servers] == ["b"])
        assert ask(two, TOKENS, 2) == 200
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
        server.wait(timeout=20)


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
        server.wait(timeout=20)


def test_a_hostile_budget_file_ends_a_start_with_one_line(
    probe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "shared@host.budget").write_bytes(b"garbage")
    (tmp_path / "shared@host.budget").chmod(0o600)
    server = start(probe_folder, "--kv-budget", "shared")
    output = server.communicate(timeout=60)[1] or ""
    assert server.returncode == 2
    assert "shared@host.budget is damaged: it has 7 bytes and not 16640; remove it" in str(output)
    assert "Traceback" not in str(output)
