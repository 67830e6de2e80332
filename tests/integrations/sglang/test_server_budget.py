"""SGLang's place in a shared budget, and what its prefix cache lets go of; no SGLang is needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from farspan.errors import InputError, UnsupportedError
from farspan.integrations.sglang.shared_budget import CachedPrefixes, server_budget
from farspan.kv.memory.budget.budget_file import FOLDER_VARIABLE
from farspan.kv.memory.budget.control import find_budgets, read_budget
from farspan.kv.memory.drivers.host import HostDriver

GIB = 2**30


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    tmp_path.chmod(0o700)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("FARSPAN_BUDGET", "shared")
    return monkeypatch


def arguments(**other: object) -> SimpleNamespace:
    plain = {
        "tp_size": 1,
        "pp_size": 1,
        "dp_size": 1,
        "served_model_name": "llama",
        "model_path": "/models/llama",
    }
    return SimpleNamespace(**{**plain, **other})


def test_a_server_joins_under_its_served_name(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("FARSPAN_BUDGET_LIMIT", "2GiB")
    driver = HostDriver()
    member = server_budget(arguments(), driver)
    assert member is not None
    (status,) = map(read_budget, find_budgets())
    assert (status.budget, status.device, status.limit) == ("shared", "host", 2 * GIB)
    assert [server.name for server in status.servers] == ["llama"]
    member.close()
    driver.close()


def test_without_the_variable_nothing_is_shared(variables: pytest.MonkeyPatch) -> None:
    variables.delenv("FARSPAN_BUDGET")
    assert server_budget(arguments(tp_size=8), HostDriver()) is None
    assert find_budgets() == []


@pytest.mark.parametrize(
    ("option", "ranks_agree"), [("tp_size", False), ("pp_size", False), ("pp_size", True)]
)
def test_processes_that_do_not_agree_are_refused(
    variables: pytest.MonkeyPatch, option: str, ranks_agree: bool
) -> None:
    with pytest.raises(UnsupportedError, match=f"does not work with --{option.replace('_', '-')} 2"):
        server_budget(arguments(**{option: 2}), HostDriver(), ranks_agree=ranks_agree)


def test_ranks_that_agree_and_independent_schedulers_each_join(variables: pytest.MonkeyPatch) -> None:
    driver = HostDriver()
    members = [
        server_budget(arguments(tp_size=2), driver, ranks_agree=True),
        server_budget(arguments(dp_size=2), driver),
    ]
    (status,) = map(read_budget, find_budgets())
    assert [server.name for server in status.servers] == ["llama", "llama"]
    for member in members:
        assert member is not None
        member.close()
    driver.close()


def test_a_variable_that_cannot_be_read_stops_the_start(variables: pytest.MonkeyPatch) -> None:
    variables.setenv("FARSPAN_BUDGET_FLOOR", "lots")
    with pytest.raises(InputError, match="FARSPAN_BUDGET_FLOOR: 'lots'"):
        server_budget(arguments(), HostDriver())


def test_both_pools_let_go_of_the_same_share() -> None:
    tokens = [1000, 400]
    asked: list[tuple[int, int]] = []

    def evict(full: int, window: int) -> None:
        asked.append((full, window))
        tokens[0] -= full
        tokens[1] -= window

    cached = CachedPrefixes(100, (10.0, 20.0), lambda: (tokens[0], tokens[1]), evict)
    assert cached.evictable() == 180
    assert cached.evict(45)
    assert asked == [(250, 100)]
    assert cached.evict(1000)
    assert tokens == [0, 0]
    assert not cached.evict(1), "there is nothing left"


def test_a_model_without_a_window_has_one_pool() -> None:
    asked: list[tuple[int, int]] = []
    cached = CachedPrefixes(100, (10.0, 0.0), lambda: (1000, 0), lambda *tokens: asked.append(tokens))
    assert cached.evictable() == 100
    assert cached.evict(10)
    assert asked == [(100, 0)]
