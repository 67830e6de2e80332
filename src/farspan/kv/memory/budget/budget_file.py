"""The file that the members of a budget share: one a budget and device, in a folder that only its user can enter.

Every member has a slot that it alone writes, and a lock on it that the kernel takes away when the member dies, however
it dies. Sums are not kept: whoever needs one adds up the slots that are locked. So a member that is killed at any
moment leaves nothing behind to be repaired: its slot has the figures from before or after, and counts no more. Locks
work between containers too, where process numbers mean nothing.

The file is read and written, not mapped: a mapped file that somebody cuts short ends the process that touches it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from farspan.errors import KVError
from farspan.kv.memory.budget.counted_time import CountedTime
from farspan.kv.memory.budget.fair_share import MemberClaim

FOLDER_VARIABLE = "FARSPAN_BUDGET_DIR"
SUFFIX = ".budget"
SLOTS = 64

_MAGIC = 0x46415253_50414E02
_HEADER = struct.Struct("<4Q")  # magic, slots, limit + 1 (0 for none), bytes of the device
# pid, joined, held, floor, promised, wished, idle, when it wished in ms, trims done; its name;
# looks, since when it wishes in ns
_SLOT = struct.Struct("<9Q64s2Q")
_ASKED = struct.Struct("<2Q")  # what others write: its limit + 1 (0 for none), trims asked for
_SLOT_BYTES = 256  # a power of two: a slot never crosses a page, so that the kernel writes it in one piece
_ASKED_AT = 192
_FILE_BYTES = (SLOTS + 1) * _SLOT_BYTES
_MOST = 2**56  # bytes; no figure of a sound file is larger
_LOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux
_LOCK_ALL_S = 2.0
_MOST_COUNTED_S = 0.05
_WISH_S = 3.0  # a wish that was not said again for so long is forgotten


class BudgetError(KVError):
    """A budget's file cannot be used: it is damaged, somebody else's, or full."""


@dataclass(frozen=True, slots=True)
class BudgetHeader:
    """What is said once for all members: bytes, None where there is no limit."""

    limit: int | None
    device_bytes: int


@dataclass(frozen=True, slots=True)
class MemberSlot:
    """What a member says of itself; bytes where nothing else is said.

    Attributes:
        pid: Its process, as it counts itself.
        joined: Seconds since the epoch.
        name: What people call it.
        held, floor, promised, wished, idle, limit: See `MemberClaim`.
        wished_at: When it last said so, in seconds of the monotonic clock.
        trims_asked: How often somebody asked it to give idle memory back.
        trims_done: How many of these it has seen to.
        looks: How often it has looked at the budget, given back what it had to, and said so.
        wished_since: Since when it has wished without a break, in ns of the monotonic clock.
    """

    pid: int
    joined: int
    name: str
    held: int = 0
    floor: int = 0
    promised: int = 0
    wished: int = 0
    idle: int = 0
    limit: int | None = None
    wished_at: float = 0.0
    trims_asked: int = 0
    trims_done: int = 0
    looks: int = 0
    wished_since: int = 0

    def claim(self, now: float) -> MemberClaim:
        """Return its claim; a wish is good for a few seconds."""
        wished = self.wished if 0 <= now - self.wished_at < _WISH_S else 0
        return MemberClaim(
            held=self.held,
            floor=self.floor,
            promised=self.promised,
            wished=wished,
            idle=min(self.idle, self.held),
            limit=self.limit,
            wished_since=self.wished_since,
        )


def budget_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Return where budget files are: FARSPAN_BUDGET_DIR, or a folder of this user in shared memory."""
    environment = os.environ if environment is None else environment
    given = environment.get(FOLDER_VARIABLE)
    return Path(given) if given else Path(f"/dev/shm/farspan-{os.geteuid()}")


def budget_path(name: str, device: str, folder: Path | None = None) -> Path:
    """Return the file of a budget on a device."""
    return (folder or budget_folder()) / f"{name}@{device}{SUFFIX}"


def name_and_device(path: Path) -> tuple[str, str]:
    """Return the budget and the device of a path that `budget_path` made."""
    name, _, device = path.name.removesuffix(SUFFIX).partition("@")
    return name, device


class BudgetFile:
    """An open budget file. Reading is safe from any thread; see `locked` for changes.

    Args:
        path: The file.

    Raises:
        BudgetError: It is not a sound budget file of this user.
        FileNotFoundError: There is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_folder(path.parent)
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._file = os.open(path, flags)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BudgetError(f"{path} cannot be opened ({error.strerror})", "remove it") from error
        self._lock = threading.Lock()
        self._closed = False
        self._own: int | None = None  # the kernel does not count a lock of the same opening
        try:
            self._check_owner()
            self.header()
        except BudgetError:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, device_bytes: int) -> BudgetFile:
        """Open a budget file, making it if there is none.

        Raises:
            BudgetError: It cannot be made, or the one that is there is not sound.
        """
        _make_folder(path.parent)
        for _ in range(10):
            with suppress(FileNotFoundError):
                return cls(path)
            _write_new(path, _HEADER.pack(_MAGIC, SLOTS, 0, device_bytes))
        raise BudgetError(f"{path} is removed as soon as it is made", "find out who removes it")

    def header(self) -> BudgetHeader:
        """Return what is said for all members.

        Raises:
            BudgetError: The file is damaged.
        """
        return self._header(self._read())

    def read(self) -> tuple[BudgetHeader, dict[int, MemberSlot]]:
        """Return what is said for all members, and the slots of those that live, by number, as of one moment.

        Raises:
            BudgetError: The file is damaged.
        """
        data = self._read()
        return self._header(data), self._members(data)

    def members(self) -> dict[int, MemberSlot]:
        """Return the slots of all members that live, by number.

        Raises:
            BudgetError: The file is damaged.
        """
        return self._members(self._read())

    def write(self, number: int, slot: MemberSlot) -> None:
        """Write what a member says of itself, in one piece; what others asked of it is left alone."""
        packed = _SLOT.pack(
            *(slot.pid, slot.joined, slot.held, slot.floor, slot.promised, slot.wished, slot.idle),
            int(slot.wished_at * 1000),
            slot.trims_done,
            slot.name.encode("utf-8", "replace")[:63],
            slot.looks,
            slot.wished_since,
        )
        self._write(packed, _place(number))

    def ask(self, number: int, limit: int | None, trims_asked: int) -> None:
        """Write what others ask of a member: a limit, and how often to give idle memory back. Call it `locked`."""
        packed = _ASKED.pack(0 if limit is None else limit + 1, trims_asked)
        self._write(packed, _place(number) + _ASKED_AT)

    def write_limit(self, limit: int | None) -> None:
        """Set what all members together may hold; None for no limit. Call it `locked`."""
        limit_field = 0 if limit is None else limit + 1
        self._write(_HEADER.pack(_MAGIC, SLOTS, limit_field, self.header().device_bytes), 0)

    def take_slot(self) -> int:
        """Return a slot that is this opening's own from now on; call it `locked`.

        Raises:
            BudgetError: All are taken.
        """
        for number in range(SLOTS):
            if self._set_lock(1 + number, fcntl.F_WRLCK):
                self._own = number
                return number
        raise BudgetError(f"{self.path} has {SLOTS} members already", "use another budget")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from changing the file meanwhile.

        Raises:
            BudgetError: Somebody keeps it for seconds: a member that is stopped.
        """
        with self._lock:
            waited, clock = 0.0, CountedTime(_MOST_COUNTED_S)
            wait = 0.0001
            while not self._set_lock(0, fcntl.F_WRLCK):
                waited += clock.passed()
                if waited > _LOCK_ALL_S:
                    raise BudgetError(
                        f"{self.path} has been locked for {_LOCK_ALL_S:g} s",
                        "see whether one of the servers is stopped",
                    )
                time.sleep(wait)
                wait = min(0.01, wait * 2)
            try:
                yield
            finally:
                self._set_lock(0, fcntl.F_UNLCK)

    @property
    def removed(self) -> bool:
        """Whether the file has been removed: others may have made a new one."""
        return self._closed or os.fstat(self._file).st_nlink == 0

    def close(self) -> None:
        """Close the file; a slot that was taken is free from now on. Closing twice does nothing."""
        if not self._closed:
            self._closed = True
            os.close(self._file)

    def _check_owner(self) -> None:
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode):
            raise BudgetError(f"{self.path} is not a file", "remove it")
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise BudgetError(
                f"{self.path} belongs to user {found.st_uid} with mode {found.st_mode & 0o777:o}, and must be this "
                "user's alone",
                f"remove it, or set {FOLDER_VARIABLE} to another folder",
            )

    def _read(self) -> bytes:
        if self._closed:
            raise BudgetError(f"{self.path} is closed")
        try:
            data = os.pread(self._file, _FILE_BYTES + 1, 0)
        except OSError as error:
            raise BudgetError(f"{self.path} cannot be read ({error.strerror})", "remove it") from error
        if len(data) != _FILE_BYTES:
            raise self._damaged(f"it has {len(data)} bytes and not {_FILE_BYTES}")
        return data

    def _write(self, packed: bytes, place: int) -> None:
        if self._closed:
            raise BudgetError(f"{self.path} is closed")
        try:
            os.pwrite(self._file, packed, place)
        except OSError as error:
            raise BudgetError(f"{self.path} cannot be written ({error.strerror})", "free memory") from error

    def _header(self, data: bytes) -> BudgetHeader:
        magic, slots, limit, device_bytes = _HEADER.unpack_from(data)
        if magic != _MAGIC or slots != SLOTS:
            raise self._damaged("it is no budget file of this version of farspan")
        if limit > _MOST or device_bytes > _MOST:
            raise self._damaged(f"it allows {max(limit, device_bytes)} bytes")
        return BudgetHeader(limit - 1 if limit else None, device_bytes)

    def _members(self, data: bytes) -> dict[int, MemberSlot]:
        return {
            number: self._unpack(number, data)
            for number in range(SLOTS)
            if data[_place(number) : _place(number) + 8] != bytes(8)
            and (number == self._own or self._is_locked(number))
        }

    def _unpack(self, number: int, data: bytes) -> MemberSlot:
        pid, joined, *figures, wished_at, done, name, looks, since = _SLOT.unpack_from(data, _place(number))
        held, floor, promised, wished, idle = figures
        limit, asked = _ASKED.unpack_from(data, _place(number) + _ASKED_AT)
        if max(*figures, limit) > _MOST:
            raise self._damaged(f"process {pid} has a figure of {max(*figures, limit)} bytes there")
        return MemberSlot(
            pid=pid,
            joined=joined,
            name=name.rstrip(b"\0").decode("utf-8", "replace"),
            held=held,
            floor=floor,
            promised=promised,
            wished=wished,
            idle=idle,
            limit=limit - 1 if limit else None,
            wished_at=wished_at / 1000,
            trims_asked=asked,
            trims_done=done,
            looks=looks,
            wished_since=since,
        )

    def _damaged(self, why: str) -> BudgetError:
        return BudgetError(
            f"{self.path} is damaged: {why}", "remove it: servers that run join the new one by themselves"
        )

    def _set_lock(self, byte: int, kind: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
        except BlockingIOError:
            return False
        except OSError as error:
            raise BudgetError(f"{self.path} cannot be locked ({error.strerror})") from error
        return True

    def _is_locked(self, number: int) -> bool:
        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 1 + number, 1, 0)
        found = _LOCK.unpack(fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, asked))
        return bool(found[0] != fcntl.F_UNLCK)


def _place(number: int) -> int:
    return (number + 1) * _SLOT_BYTES


def check_folder(folder: Path) -> None:
    """Make sure that a folder is this user's alone.

    Raises:
        BudgetError: It is not.
        FileNotFoundError: There is none.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise BudgetError(
            f"{folder} is not a folder that only this user can write to",
            f"remove it, or set {FOLDER_VARIABLE} to another folder",
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise BudgetError(
            f"the folder {folder} cannot be made ({error.strerror})", f"set {FOLDER_VARIABLE} to another one"
        ) from error


def _write_new(path: Path, header: bytes) -> None:
    """Put a whole new file at `path`, unless somebody else was first: nobody ever sees a part of one."""
    scratch = path.with_name(f".{secrets.token_hex(8)}.new")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, header.ljust(_FILE_BYTES, b"\0"))
            with suppress(FileExistsError):
                os.link(scratch, path)
        finally:
            os.close(descriptor)
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise BudgetError(f"{path} cannot be made ({error.strerror})", f"set {FOLDER_VARIABLE}") from error
