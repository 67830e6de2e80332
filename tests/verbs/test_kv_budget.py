"""`farspan kv`: the memory that servers share, shown, limited and given back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import farspan
from farspan.cli.main import group
from farspan.errors import InputError, NetworkError, NotFoundError
from farspan.kv.memory.budget.budget_file import FOLDER_VARIABLE, budget_path
from farspan.kv.memory.budget.member import BudgetMember
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.segments import SegmentPool

GIB = 2**30
MIB = 2**20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def two(folder: Path) -> Iterator[tuple[BudgetMember, BudgetMember]]:
    path = budget_path("shared", "GPU-3fa9", folder)
    one = BudgetMember(path, "llama-a", 100 * GIB, limit=60 * GIB, floor=2 * GIB)
    other = BudgetMember(path, "llama-b", 100 * GIB)
    part = one.part()
    assert part.claim(40 * GIB, 100 * GIB)
    part.report(30 * GIB, 0)
    yield one, other
    one.close()
    other.close()


def run(*words: str) -> Result:
    return CliRunner().invoke(group, ["kv", *words], standalone_mode=False)


def test_status_says_who_holds_what(two: tuple[BudgetMember, BudgetMember]) -> None:
    done = run("status")
    assert done.return_value == 0
    lines = done.output.splitlines()
    assert lines[0] == "shared on GPU-3fa9: 40.0 GiB held, limit 60.0 GiB"
    assert lines[1].split() == ["server", "pid", "held", "idle", "wanted", "floor", "limit"]
    assert "llama-a" in lines[2]
    assert lines[2].split()[2:] == ["40.0", "GiB", "30.0", "GiB", "10.0", "GiB", "2.0", "GiB", "-"]
    (budget,) = json.loads(run("status", "--json").output)["budgets"]
    assert budget["limit"] == 60 * GIB
    assert {server["name"]: server["idle"] for server in budget["servers"]} == {
        "llama-a": 30 * GIB,
        "llama-b": 0,
    }


def test_nothing_shared_is_said(folder: Path) -> None:
    assert run("status").output == "No server shares a budget here.\n"
    assert farspan.kv_status().to_json() == {"budgets": [], "damaged": []}
    with pytest.raises(NotFoundError, match="there is no budget 'other'"):
        farspan.kv_status(budget="other")
    with pytest.raises(
        NotFoundError, match=r"there is no budget; servers that were started with FARSPAN_BUDGET"
    ):
        farspan.kv_limit("1GiB")


def test_a_damaged_file_is_named_and_the_others_shown(
    two: tuple[BudgetMember, BudgetMember], folder: Path
) -> None:
    bad = folder / "bad@host.budget"
    bad.write_bytes(b"x" * 10)
    bad.chmod(0o600)
    done = run("status")
    assert done.return_value == 1
    assert "bad@host.budget is damaged: it has 10 bytes" in done.output
    assert "shared on GPU-3fa9" in done.output


def test_limits_of_all_and_of_one(two: tuple[BudgetMember, BudgetMember]) -> None:
    assert "limit 50.0 GiB" in run("limit", "50GiB").output
    status = farspan.kv_limit("20GiB", server="llama-b")
    assert [server.limit for server in status.budgets[0].servers] == [None, 20 * GIB]
    assert farspan.kv_limit(None, server="llama-b").budgets[0].servers[1].limit is None
    assert farspan.kv_limit("none").budgets[0].limit is None
    with pytest.raises(NotFoundError, match=r"has no server 'llama-c'; it has llama-a \(\d+\), llama-b"):
        farspan.kv_limit("1GiB", server="llama-c")
    with pytest.raises(InputError, match=r"1\.0 GiB is below the floor of 2\.0 GiB"):
        farspan.kv_limit("1GiB")
    with pytest.raises(InputError, match="'much' is not a number of bytes"):
        farspan.kv_limit("much")


def test_one_of_several_budgets_must_be_named(two: tuple[BudgetMember, BudgetMember], folder: Path) -> None:
    third = BudgetMember(budget_path("tests", "host", folder), "small", GIB)
    with pytest.raises(InputError, match="choose one with --budget: shared, tests"):
        farspan.kv_limit("5GiB")
    assert farspan.kv_limit("5GiB", server="small").budgets[0].budget == "tests", "only one of them has it"
    assert farspan.kv_limit("50GiB", device="gpu-3").budgets[0].budget == "shared"
    third.close()


def test_trim_gives_idle_memory_back_now(folder: Path) -> None:
    path = budget_path("shared", "host", folder)
    driver = HostDriver()
    member = BudgetMember(path, "llama-a", 2**40)
    pool = SegmentPool(driver, MIB, quiet_s=1000, budget=member)
    pool.give(pool.take(8))
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.wait(0.01):
            pool.tick()

    server = threading.Thread(target=serve)
    server.start()
    try:
        until = time.monotonic() + 5
        while farspan.kv_status().budgets[0].servers[0].idle != 8 * MIB:
            assert time.monotonic() < until
        done = farspan.kv_trim()
    finally:
        stopping.set()
        server.join()
    assert (done.given_back, done.late, done.status.budgets[0].held) == (8 * MIB, (), 0)
    assert driver.physical_bytes() == 0
    pool.close()
    member.close()
    driver.close()


def test_a_server_that_is_busy_is_named(
    two: tuple[BudgetMember, BudgetMember], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farspan.kv.memory.budget.control._TRIM_S", 0.05)
    done = run("trim", "--server", "llama-a")
    assert done.return_value == 1
    assert "has not answered yet: it gives back after its step" in done.output


@pytest.mark.parametrize("url", ["ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="is not a server's address"):
        farspan.kv_status(url=url)


def test_an_address_is_read_as_everywhere_else() -> None:
    with pytest.raises(InputError, match="holds a password"):
        farspan.kv_status(url="http://user:secret@127.0.0.1:9")
    with pytest.raises(NetworkError, match=r"http://127\.0\.0\.1:9 does not answer"):
        farspan.kv_status(url="http://127.0.0.1:9/v1/")


def test_a_server_that_does_not_answer_is_said() -> None:
    with pytest.raises(NetworkError, match="does not answer"):
        farspan.kv_status(url="127.0.0.1:9")


def test_help_shows_examples() -> None:
    for words in (["--help"], ["status", "--help"], ["limit", "--help"], ["trim", "--help"]):
        assert "Examples:" in CliRunner().invoke(group, ["kv", *words]).output
