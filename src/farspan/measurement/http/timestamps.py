"""When bytes arrived, by the kernel's own time stamp (Linux), on this process's steady clock.

The kernel stamps nothing until some socket asks for it, and begins a little after the first one has asked: an answer
that comes at once would go without. So one socket asks before the first request leaves, and stays open.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Iterable
from typing import Self

# Linux, include/uapi/asm-generic/socket.h: SO_TIMESTAMPNS_OLD; its message is a timespec of two longs.
_OPTION = 35
_STAMP = struct.Struct("@ll")
_KNOWN = sys.platform == "linux" and _STAMP.size == 16
STAMP_ROOM = socket.CMSG_SPACE(_STAMP.size)

# A stamp older than this, or from the future, means that the wall clock was set meanwhile.
_OLDEST_NS = 60 * 10**9
# Two clocks read in a row differ by this where nothing came between.
_TOGETHER_NS = 20_000
_CLOCK_TRIES = 5
_START_TRIES = 40
_START_PAUSE_S = 0.005


def ask_for_stamps(sock: socket.socket) -> None:
    """Have the kernel stamp what arrives, where it can."""
    if _KNOWN:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _OPTION, 1)


def find_lag(notes: Iterable[tuple[int, int, bytes]], wall_ns: int) -> float | None:
    """Return how long ago what a `recvmsg` returned had arrived, in seconds; None where it has no stamp.

    Args:
        notes: The ancillary data.
        wall_ns: The wall clock now, in nanoseconds since the epoch.
    """
    for level, kind, note in notes:
        if level == socket.SOL_SOCKET and kind == _OPTION and len(note) == _STAMP.size:
            seconds, nanoseconds = _STAMP.unpack(note)
            lag_ns = wall_ns - (seconds * 10**9 + nanoseconds)
            if 0 <= lag_ns < _OLDEST_NS:
                return float(lag_ns / 1e9)
    return None


def read_clocks() -> tuple[float, int]:
    """Read the steady and the wall clock at the same moment: `time.perf_counter()` and nanoseconds since the epoch.

    Between two reads another thread may run for milliseconds, and a stamp carried from one clock to the other would be
    off by them. So the reading is repeated until nothing came between, and the closest one is taken.
    """
    found: list[tuple[int, int, int]] = []
    for _ in range(_CLOCK_TRIES):
        before, wall, after = time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()
        found.append((after - before, after, wall))
        if after - before <= _TOGETHER_NS:
            break
    _, steady, wall = min(found)
    return steady / 1e9, wall


class KeepStamping:
    """Has the kernel stamp arrivals from now on. Use as a context manager, around whatever is timed."""

    def __init__(self) -> None:
        self._asking: socket.socket | None = None

    def __enter__(self) -> Self:
        if _KNOWN:
            with contextlib.suppress(OSError):
                self._asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                ask_for_stamps(self._asking)
                for _ in range(_START_TRIES):
                    if _is_stamping():
                        break
                    time.sleep(_START_PAUSE_S)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._asking is not None:
            self._asking.close()


def _is_stamping() -> bool:
    """Send a byte to ourselves and look whether it has a stamp."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname(), timeout=1)
        far, _ = listener.accept()
        with near, far:
            ask_for_stamps(near)
            far.sendall(b"\0")
            _, notes, _, _ = near.recvmsg(1, STAMP_ROOM)
            return find_lag(notes, time.time_ns()) is not None
