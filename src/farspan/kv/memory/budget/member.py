"""A server's part of a budget: what its segment pools hold on one device, claimed before it is created."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from farspan.errors import InputError
from farspan.kv.memory.budget.budget_file import (
    BudgetError,
    BudgetFile,
    BudgetHeader,
    MemberSlot,
    budget_path,
)
from farspan.kv.memory.budget.budget_part import BudgetPart
from farspan.kv.memory.budget.fair_share import Allowance, MemberClaim, allowance, may_take
from farspan.kv.memory.budget.neighbours import SILENT_S, Neighbour, RoomWait, SilenceCount
from farspan.kv.memory.budget.prospect import Prospect, prospect
from farspan.kv.memory.budget.settings import BudgetSettings
from farspan.sizes import format_bytes

_LOG = logging.getLogger(__name__)
_SAY_AGAIN_S = 1.0  # how often a wish that stays is said again


class Outlook(NamedTuple):
    """What a member may hold and who is beside it, in bytes where nothing else is said.

    Attributes:
        allowance: What the member may hold, all its pools together.
        limit: What all may hold; None when only the device's memory is the limit.
        neighbours: Other members.
        neighbours_held: What they hold.
        trims_asked: How often somebody asked this member for idle memory.
    """

    allowance: Allowance
    limit: int | None
    neighbours: int
    neighbours_held: int
    trims_asked: int


class BudgetMember:
    """A process's place in a budget of one device. Safe to use from any thread.

    Trouble with the file while the server runs never ends it: it may not grow then, and says so once in its log.

    Args:
        path: The budget's file; see `budget_path`.
        name: What people call the server.
        device_bytes: Memory of the device.
        limit: What all may hold, where nobody has said so before.
        floor: What this member may always hold.

    Raises:
        BudgetError: The file cannot be used.
        InputError: The floor does not fit beside the others'.
    """

    def __init__(
        self, path: Path, name: str, device_bytes: int, *, limit: int | None = None, floor: int = 0
    ) -> None:
        self.path = path
        self.name = name
        self._device_bytes = device_bytes
        self._limit = limit
        self._floor = floor
        self._parts: list[BudgetPart] = []
        self._lock = threading.RLock()
        self._joined = int(time.time())
        self._wished_at = 0.0
        self._trims_done = 0
        self._said = ""
        self._refused_since: float | None = None
        self._silences = SilenceCount()
        self._number = -1
        self._file = BudgetFile.create(path, device_bytes)
        try:
            self._join(self._file)
        except (BudgetError, InputError):
            self._file.close()
            raise
        _OPEN.add(self)

    @property
    def held(self) -> int:
        """What all pools of the member hold."""
        return sum(part.held for part in self._parts)

    @property
    def most(self) -> int:
        """The most that all members may ever hold as things stand: the limit, or the device's memory."""
        try:
            limit = self._file.header().limit
        except BudgetError:
            limit = None
        return self._device_bytes if limit is None else min(limit, self._device_bytes)

    def part(self) -> BudgetPart:
        """Return the account of one more pool of this process."""
        part = BudgetPart(self)
        with self._lock:
            self._parts.append(part)
        return part

    def outlook(self, free: int) -> Outlook | None:
        """Return what the member may hold, None when the budget's file cannot tell.

        Args:
            free: What is free on the device.
        """
        with self._lock:
            try:
                header, slots = self._look()
            except BudgetError as error:
                self._say(error)
                return None
            own, *others = claims = self._claims(slots)
            held = sum(claim.held for claim in claims)
            return Outlook(
                allowance(_total(header.limit, held, free), claims, 0),
                header.limit,
                len(others),
                held - own.held,
                slots[self._number].trims_asked if self._number in slots else self._trims_done,
            )

    def prospect(self, free: int, wait: RoomWait | None) -> Prospect:
        """Return what the member may come to hold.

        Args:
            free: What is free on the device.
            wait: Of the request that asks; None for one that has not begun to wait.
        """
        with self._lock:
            try:
                header, slots = self._look()
            except BudgetError as error:
                self._say(error)
                return Prospect(self.held, (str(error),))
            own, *others = claims = self._claims(slots)
            total = _total(header.limit, sum(claim.held for claim in claims), free)
            neighbours = self._neighbours(slots).items()
            pairs = {key: (slot, claim) for (key, slot), claim in zip(neighbours, others, strict=True)}
            found = prospect(header.limit, total, own, pairs, self._silences, wait)
            if wait is not None and self._is_locked_out:
                return Prospect(self.held, (self._said,), found.holders)
            return found

    def trimmed(self, trims_asked: int) -> None:
        """Say that idle memory was given back as asked so often."""
        with self._lock:
            self._trims_done = trims_asked
            self.write()

    def take(self, size: int, free: int, change: Callable[[], None], undo: Callable[[], None]) -> bool:
        """Carry out a change after which the member holds or was promised `size` bytes, if the budget allows it."""
        with self._lock:
            try:
                self._rejoin()
                with self._file.locked():
                    header, slots = self._file.read()
                    claims = self._claims(slots)
                    total = _total(header.limit, sum(claim.held for claim in claims), free)
                    if not may_take(total, claims, 0, size):
                        self._refused_since = None
                        return False
                    change()
                    try:
                        self._file.write(self._number, self._slot())
                    except BudgetError:
                        undo()
                        raise
            except BudgetError as error:
                self._say(error)
                self._refused_since = self._refused_since or time.monotonic()
                return False
            self._said, self._refused_since = "", None
            return True

    def change(self, change: Callable[[], None], *, wishes: bool = False) -> None:
        """Carry out a change that needs nobody's leave."""
        with self._lock:
            change()
            if wishes:
                self._wished_at = time.monotonic()
            self.write()

    def leave(self, part: BudgetPart) -> None:
        """Forget the account of a pool that is closed, with what it still has in it."""
        with self._lock:
            if part in self._parts:
                self._parts.remove(part)
                self.write()

    @property
    def promised(self) -> int:
        """What the member may still take for requests that were admitted."""
        return sum(part.promised for part in self._parts)

    @property
    def wish_is_old(self) -> bool:
        """Whether a wish that stays has to be said again."""
        return time.monotonic() - self._wished_at > _SAY_AGAIN_S

    def write(self) -> None:
        """Write what the member says of itself; trouble is logged."""
        try:
            self._rejoin()
            self._file.write(self._number, self._slot())
        except BudgetError as error:
            self._say(error)

    def close(self) -> None:
        """Leave the budget. Leaving twice does nothing."""
        _OPEN.discard(self)
        self._file.close()

    def _join(self, file: BudgetFile) -> None:
        with file.locked():
            number = file.take_slot()
            header, slots = file.read()
            slots.pop(number, None)
            limit = self._limit if header.limit is None else header.limit
            floors = sum(slot.floor for slot in slots.values())
            most = header.device_bytes if limit is None else min(limit, header.device_bytes)
            if self._floor and floors + self._floor > most:
                raise InputError(
                    f"a floor of {format_bytes(self._floor)} does not fit the budget {self.path.stem} of "
                    f"{format_bytes(most)}, of which {format_bytes(floors)} are others' floors",
                    "lower the floor, or raise the limit with farspan kv limit",
                )
            if limit != header.limit:
                file.write_limit(limit)
            self._trims_done = 0
            self._number = number
            file.ask(number, None, 0)
            file.write(number, self._slot())

    def _rejoin(self) -> None:
        """Join the new file where the old one was removed."""
        if self not in _OPEN:
            raise BudgetError(f"the budget {self.path.stem} was left")
        if not self._file.removed:
            return
        file = BudgetFile.create(self.path, self._device_bytes)
        try:
            self._join(file)
        except (BudgetError, InputError) as error:
            file.close()
            raise BudgetError(str(error)) from error
        self._file.close()
        self._file = file
        _LOG.warning("farspan budget: %s was removed, and is joined anew", self.path)

    def _look(self) -> tuple[BudgetHeader, dict[int, MemberSlot]]:
        """Read the file, and take note of who of the neighbours has looked at it since."""
        self._rejoin()
        header, slots = self._file.read()
        self._silences.count((key, slot.looks) for key, slot in self._neighbours(slots).items())
        return header, slots

    def _claims(self, slots: Mapping[int, MemberSlot]) -> list[MemberClaim]:
        """Return everybody's claims, first this member's own: that from what it knows itself."""
        now = time.monotonic()
        own = self._slot()
        if self._number in slots:
            own = replace(own, limit=slots[self._number].limit)
        others = [slot.claim(now) for slot in self._neighbours(slots).values()]
        return [own.claim(now), *others]

    def _neighbours(self, slots: Mapping[int, MemberSlot]) -> dict[Neighbour, MemberSlot]:
        return {
            Neighbour(number, slot.pid, slot.joined): slot
            for number, slot in slots.items()
            if number != self._number
        }

    @property
    def _is_locked_out(self) -> bool:
        """Whether nothing could be claimed for long, because the file could not be locked or written."""
        return self._refused_since is not None and time.monotonic() - self._refused_since >= SILENT_S

    def _slot(self) -> MemberSlot:
        parts = self._parts
        return MemberSlot(
            pid=os.getpid(),
            joined=self._joined,
            name=self.name,
            held=self.held,
            floor=self._floor,
            promised=self.promised,
            wished=sum(part.wished for part in parts),
            idle=sum(part.idle for part in parts),
            wished_at=self._wished_at,
            trims_done=self._trims_done,
            looks=min((part.looks for part in parts), default=0),
            wished_since=min((part.wished_since for part in parts if part.wished), default=0),
        )

    def _say(self, error: BudgetError) -> None:
        if str(error) != self._said:
            self._said = str(error)
            _LOG.error("farspan budget: no growth beyond %s: %s", format_bytes(self.held), error)


def join_budget(settings: BudgetSettings, member: str, device: str, device_bytes: int) -> BudgetMember:
    """Join a budget on a device.

    Args:
        settings: The budget.
        member: What people call this server.
        device: What the device is called, the same for all its users.
        device_bytes: Its memory.

    Raises:
        BudgetError: The budget's file cannot be used.
        InputError: The floor does not fit beside the others'.
    """
    path = budget_path(settings.name, device)
    return BudgetMember(path, member, device_bytes, limit=settings.limit, floor=settings.floor)


def _total(limit: int | None, held: int, free: int) -> int:
    device = held + max(0, free)
    return device if limit is None else min(limit, device)


_OPEN: weakref.WeakSet[BudgetMember] = weakref.WeakSet()


def _leave_in_child() -> None:
    # A child that kept the file open would keep its parent's lock after the parent's death.
    for member in list(_OPEN):
        member.close()


os.register_at_fork(after_in_child=_leave_in_child)
