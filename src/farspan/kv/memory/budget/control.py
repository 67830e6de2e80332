"""Budgets seen and moved from outside: what `farspan kv` and a server's own HTTP routes do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farspan.errors import InputError, NotFoundError
from farspan.kv.memory.budget.budget_file import (
    SUFFIX,
    BudgetError,
    BudgetFile,
    MemberSlot,
    budget_folder,
    check_folder,
    name_and_device,
)
from farspan.kv.memory.budget.counted_time import CountedTime
from farspan.sizes import format_bytes

_TRIM_S = 5.0  # for so long a member that was asked for idle memory is waited for
_MOST_COUNTED_S = 0.1
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class BudgetServer:
    """A member of a budget; bytes where nothing else is said.

    Args:
        name: What it is called.
        pid: Its process, as it counts itself: another number than here when it runs in a container.
        held: Physical memory it has.
        idle: Of `held`, what no request needs: it could be given back.
        promised: What it may still take for requests that it has admitted.
        wished: What it would take beyond `held` if there were room; 0 when it lacks nothing.
        wanted: What it needs in all: in use, promised and wished for, its floor at least.
        floor: What it may always hold.
        limit: The most it may hold; None for no limit of its own.
        joined: When it joined, seconds since the epoch.
    """

    name: str
    pid: int
    held: int
    idle: int
    promised: int
    wished: int
    wanted: int
    floor: int
    limit: int | None
    joined: int


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """A budget on one device, in bytes.

    Args:
        budget: Its name.
        device: The device.
        limit: What all members together may hold; None when only the device's memory is the limit.
        device_bytes: Memory of the device.
        held: What they hold.
        servers: The members, in the order in which they joined.
    """

    budget: str
    device: str
    limit: int | None
    device_bytes: int
    held: int
    servers: tuple[BudgetServer, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields under their names."""
        return asdict(self)


def read_budget(path: Path) -> BudgetStatus:
    """Return what a budget's file says.

    Raises:
        BudgetError: It is not a sound budget file of this user.
        NotFoundError: There is none.
    """
    file = _open(path)
    try:
        header, slots = file.read()
    finally:
        file.close()
    name, device = name_and_device(path)
    now = time.monotonic()
    servers = [_server(slot, now) for slot in sorted(slots.values(), key=lambda slot: slot.joined)]
    held = sum(server.held for server in servers)
    return BudgetStatus(name, device, header.limit, header.device_bytes, held, tuple(servers))


def find_budgets(
    budget: str | None = None, device: str | None = None, folder: Path | None = None
) -> list[Path]:
    """Return the files of this user's budgets, those of one name or device if given.

    Raises:
        BudgetError: The folder is not this user's alone.
    """
    folder = folder or budget_folder()
    try:
        check_folder(folder)
    except FileNotFoundError:
        return []
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        name, where = name_and_device(path)
        if budget in (None, name) and (device is None or where.lower().startswith(device.lower())):
            found.append(path)
    return found


def set_limit(path: Path, limit: int | None, server: str | None = None) -> None:
    """Set what all members of a budget together, or the members of a name or process, may hold; None for no limit.

    Members follow it down between their steps, as memory becomes idle; nothing that a request uses is taken away.

    Raises:
        BudgetError: It is not a sound budget file of this user.
        InputError: The limit is below a floor.
        NotFoundError: There is no such budget, or no such member.
    """
    file = _open(path)
    try:
        with file.locked():
            chosen = _choose(file, server)
            floors = [slot.floor for slot in chosen.values()]
            least = sum(floors) if server is None else max(floors)
            if limit is not None and limit < least:
                raise InputError(
                    f"a limit of {format_bytes(limit)} is below the floor of {format_bytes(least)}",
                    "choose a higher limit, or start the servers with a lower floor",
                )
            if server is None:
                file.write_limit(limit)
                return
            for number, slot in chosen.items():
                file.ask(number, limit, slot.trims_asked)
    finally:
        file.close()


def trim(path: Path, server: str | None = None) -> list[int]:
    """Ask the members of a budget, or those of a name or process, to give idle memory back now.

    Returns:
        The processes that have not done so within a few seconds: one in a long step does so after it.

    Raises:
        BudgetError: It is not a sound budget file of this user.
        NotFoundError: There is no such budget, or no such member.
    """
    file = _open(path)
    try:
        with file.locked():
            chosen = _choose(file, server)
            for number, slot in chosen.items():
                file.ask(number, slot.limit, slot.trims_asked + 1)
        counted, clock = 0.0, CountedTime(_MOST_COUNTED_S)
        waiting: Sequence[int] = list(chosen)
        while waiting:
            now = file.members()
            waiting = [
                number
                for number in waiting
                if number in now and now[number].trims_done != now[number].trims_asked
            ]
            if counted > _TRIM_S:
                break
            if waiting:
                time.sleep(_LOOK_S)
            counted += clock.passed()
        return [chosen[number].pid for number in waiting]
    finally:
        file.close()


def _choose(file: BudgetFile, server: str | None) -> dict[int, MemberSlot]:
    slots = file.members()
    chosen = {
        number: slot
        for number, slot in slots.items()
        if server is None or server in (slot.name, str(slot.pid))
    }
    if server is not None and not chosen:
        known = ", ".join(f"{slot.name} ({slot.pid})" for slot in slots.values()) or "no server"
        raise NotFoundError(f"the budget {file.path.stem} has no server {server!r}", f"it has {known}")
    return chosen


def _open(path: Path) -> BudgetFile:
    try:
        return BudgetFile(path)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no budget {path}", "farspan kv status lists those there are"
        ) from error


def _server(slot: MemberSlot, now: float) -> BudgetServer:
    claim = slot.claim(now)
    return BudgetServer(
        name=slot.name,
        pid=slot.pid,
        held=claim.held,
        idle=claim.idle,
        promised=claim.promised,
        wished=claim.wished,
        wanted=claim.demand,
        floor=claim.floor,
        limit=claim.limit,
        joined=slot.joined,
    )


__all__ = ["BudgetError", "BudgetServer", "BudgetStatus", "find_budgets", "read_budget", "set_limit", "trim"]
