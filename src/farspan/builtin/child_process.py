"""The processes that the server starts: with a socket to each, without its key, and ended with it.

Imports nothing that takes a while: the processes import it too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

KEY_VARIABLE = "FARSPAN_API_KEY"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def start_process(
    module: str,
    kind: socket.SocketKind,
    arguments: Sequence[str] = (),
    before: Callable[[], None] | None = None,
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start `python -m MODULE DESCRIPTOR ARGUMENTS...` and return the socket whose other end is that descriptor.

    Args:
        module: What runs.
        kind: The socket's.
        arguments: What follows the descriptor.
        before: Called in the process before Python is; not for a server that has threads.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno()), *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=before,
            env={name: value for name, value in os.environ.items() if name != KEY_VARIABLE},
        )
    return ours, process


def end_with_the_server() -> None:
    """Have the kernel kill this process when the one that started it dies, however it does."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_signals_to_the_server() -> None:
    """Ignore what a terminal or a supervisor sends: the server handles it, and ends this process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
