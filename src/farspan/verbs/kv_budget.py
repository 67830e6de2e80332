"""The memory that servers share on this machine's devices: who holds what, may hold how much, and gives it back."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farspan.errors import InputError, NetworkError, NotFoundError
from farspan.kv.memory.budget.budget_file import BudgetError, name_and_device
from farspan.kv.memory.budget.control import (
    BudgetServer,
    BudgetStatus,
    find_budgets,
    read_budget,
    set_limit,
    trim,
)
from farspan.sizes import parse_bytes

if TYPE_CHECKING:
    import urllib.error

_ANSWER_S = 15.0
_MOST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class KvStatus:
    """Every budget there is, or those asked for.

    Args:
        budgets: One entry a budget and device.
        damaged: Why files of budgets cannot be read; empty when all can.
    """

    budgets: tuple[BudgetStatus, ...]
    damaged: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Both under their names, sizes in bytes."""
        return {"budgets": [each.to_json() for each in self.budgets], "damaged": list(self.damaged)}


@dataclass(frozen=True, slots=True)
class KvTrim:
    """What came of giving idle memory back.

    Args:
        given_back: Bytes that are held no more.
        late: Processes that had not answered when the wait was over: they do it after their step.
        status: The budgets afterwards.
    """

    given_back: int
    late: tuple[int, ...]
    status: KvStatus

    def to_json(self) -> dict[str, Any]:
        """The fields under their names."""
        return {"given_back": self.given_back, "late": list(self.late), **self.status.to_json()}


def kv_status(
    *,
    budget: str | None = None,
    device: str | None = None,
    url: str | None = None,
    api_key_env: str = "",
    folder: Path | None = None,
) -> KvStatus:
    """Say who holds how much of the memory that servers share, on each device.

    Args:
        budget: One budget; all of them when None.
        device: One device, or how its name begins.
        url: Ask the built-in server there about its own budget, rather than the files of this machine.
        api_key_env: Environment variable with that server's API key.
        folder: Where the budgets' files are; FARSPAN_BUDGET_DIR or this user's own when None.

    Raises:
        BudgetError: The folder is not this user's alone.
        NetworkError: The server does not answer.
        NotFoundError: There is no budget of that name or on that device, or the server has none.
    """
    if url is not None:
        return KvStatus((_from_json(_ask(url, "GET", "status", None, api_key_env)),))
    budgets, damaged = [], []
    for path in find_budgets(budget, device, folder):
        try:
            budgets.append(read_budget(path))
        except BudgetError as error:
            damaged.append(str(error))
    if not budgets and not damaged and (budget or device):
        raise _no_budget(budget, device)
    return KvStatus(tuple(budgets), tuple(damaged))


def kv_limit(
    size: str | int | None,
    *,
    server: str | None = None,
    budget: str | None = None,
    device: str | None = None,
    url: str | None = None,
    api_key_env: str = "",
    folder: Path | None = None,
) -> KvStatus:
    """Set how much the servers of a budget, or one of them, may hold. They follow it at once, requests first.

    Args:
        size: Bytes, such as `64GiB`; None or `none` for no limit.
        server: A server by name or process, whose own limit is set; the limit of all together when None.
        budget: The budget; the only one when None.
        device: The device, or how its name begins; every device of the budget when None.
        url: Ask the built-in server there, about its own budget.
        api_key_env: Environment variable with that server's API key.
        folder: Where the budgets' files are.

    Returns:
        The budgets afterwards.

    Raises:
        BudgetError: A budget's file is damaged, or not this user's.
        InputError: The size is none, is below a floor, or there are several budgets and no name.
        NetworkError: The server does not answer.
        NotFoundError: There is no such budget or server.
    """
    limit = _size(size)
    if url is not None:
        body = {"limit": limit, "server": server}
        return KvStatus((_from_json(_ask(url, "POST", "limit", body, api_key_env)),))
    paths = _paths(budget, device, folder, server)
    for path in paths:
        set_limit(path, limit, server)
    return KvStatus(tuple(read_budget(path) for path in paths))


def kv_trim(
    *,
    server: str | None = None,
    budget: str | None = None,
    device: str | None = None,
    url: str | None = None,
    api_key_env: str = "",
    folder: Path | None = None,
) -> KvTrim:
    """Have servers give idle memory back to the device now, rather than after their quiet time.

    Args:
        server: A server by name or process; all of them when None.
        budget: The budget; every one when None.
        device: The device, or how its name begins; every device when None.
        url: Ask the built-in server there, about its own budget.
        api_key_env: Environment variable with that server's API key.
        folder: Where the budgets' files are.

    Raises:
        BudgetError: A budget's file is damaged, or not this user's.
        NetworkError: The server does not answer.
        NotFoundError: There is no such budget or server.
    """
    if url is not None:
        answer = _ask(url, "POST", "trim", {"server": server}, api_key_env)
        return KvTrim(
            int(answer["given_back"]), tuple(answer["late"]), KvStatus((_from_json(answer["status"]),))
        )
    paths = _paths(budget, device, folder, server, several=True)
    before = sum(read_budget(path).held for path in paths)
    late = dict.fromkeys(pid for path in paths for pid in trim(path, server))  # each process once
    after = KvStatus(tuple(read_budget(path) for path in paths))
    held = sum(each.held for each in after.budgets)
    return KvTrim(max(0, before - held), tuple(late), after)


def _size(size: str | int | None) -> int | None:
    if isinstance(size, str):
        return None if size.lower() == "none" else parse_bytes(size)
    if size is not None and size < 0:
        raise InputError(f"a limit of {size} bytes is below 0", "give bytes, or none")
    return size


def _paths(
    budget: str | None, device: str | None, folder: Path | None, server: str | None, *, several: bool = False
) -> list[Path]:
    """Return the files of the budgets that are meant: those that have the server, where one is named."""
    found = find_budgets(budget, device, folder)
    if server is not None and len(found) > 1:
        with_it = [
            path
            for path in found
            if any(server in (each.name, str(each.pid)) for each in read_budget(path).servers)
        ]
        found = with_it or found[:1]
    if not found:
        raise _no_budget(budget, device)
    names = sorted({name_and_device(path)[0] for path in found})
    if len(names) > 1 and not several:
        raise InputError("there are several budgets", f"choose one with --budget: {', '.join(names)}")
    return found


def _no_budget(budget: str | None, device: str | None) -> NotFoundError:
    name = f"budget {budget!r}" if budget else "budget"
    where = f" on a device {device!r}" if device else ""
    return NotFoundError(
        f"there is no {name}{where}",
        "servers that were started with FARSPAN_BUDGET or --kv-budget make one: see docs/kv-budget.md",
    )


def _ask(url: str, method: str, what: str, body: dict[str, Any] | None, api_key_env: str) -> dict[str, Any]:
    """Ask a server's own route of that name."""
    # Only where a server is asked: these take longer to import than the files of budgets to read.
    import urllib.error
    import urllib.request

    from farspan.measurement.http.target import normalise_url

    base = normalise_url(url)
    request = urllib.request.Request(
        f"{base}/kv/{what}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    if api_key_env:
        key = os.environ.get(api_key_env)
        if not key:
            raise InputError(f"the environment variable {api_key_env} is not set", "set it to the API key")
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
            found = json.loads(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        raise _refused(base, what, error) from error
    except (OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise NetworkError(f"{base} does not answer: {reason}", "check the address") from error
    if not isinstance(found, dict):
        raise NetworkError(f"{base}/kv/{what} answers nonsense", "check the address")
    return found


def _refused(base: str, what: str, error: urllib.error.HTTPError) -> InputError | NetworkError:
    try:
        said = str(json.loads(error.read(_MOST_BYTES))["error"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        said = ""
    if error.code == 404 and not said:
        return NotFoundError(
            f"{base} has no /kv/{what}: only the built-in server has",
            "leave --url out on the machine where the server runs: SGLang is reached through its budget's file",
        )
    if error.code in (400, 404):
        return InputError(said or f"{base} refuses /kv/{what}")
    return NetworkError(
        f"{base}/kv/{what} answers {error.code} {said}".rstrip(), "check the server's API key"
    )


def _from_json(value: dict[str, Any]) -> BudgetStatus:
    try:
        servers = tuple(BudgetServer(**each) for each in value["servers"])
        return BudgetStatus(**{**value, "servers": servers})
    except (KeyError, TypeError) as error:
        raise NetworkError("the server's answer cannot be read", "use a farspan of its version") from error
