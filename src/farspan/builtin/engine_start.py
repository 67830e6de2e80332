"""Starts the engine's process and waits until it has loaded.

Needs no torch, and shares no interpreter with the engine: a step that holds one for seconds holds up no answer.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from farspan.builtin.child_process import end_with_the_server, start_process
from farspan.builtin.engine_channel import EngineChannel, unpack_error
from farspan.errors import FarspanError

_END_S = 5.0


def _end_with(server: int) -> Callable[[], None]:
    """Return what a process does between fork and exec, so that it ends with the server.

    Said any later, a server that is killed while Python starts would leave a process that loads a model for nobody.
    """

    def prepare() -> None:
        end_with_the_server()
        if os.getppid() != server:  # it died before the line above
            os._exit(1)

    return prepare


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What an engine says of itself once it has loaded.

    Attributes:
        folder: The checkpoint.
        vocab_size: Token ids are below it.
        max_model_len: Longest prompt plus output, tokens.
        settings: Every setting under the name of its flag.
        budget_file: The file of the budget that its KV cache shares with other servers; None for none.
        mapped_bytes: What its KV cache has taken.
        capacity_bytes: What it may grow to.
    """

    folder: str
    vocab_size: int
    max_model_len: int
    settings: dict[str, str | int | float | bool | None]
    budget_file: str | None
    mapped_bytes: int
    capacity_bytes: int


class EngineProcess:
    """The process an engine runs in; it ends with this one, however that ends.

    Args:
        asked: What it is to load, see `engine_process.load_engine`.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        self.connection, self._process = start_process(
            "farspan.builtin.engine_process", socket.SOCK_STREAM, before=_end_with(os.getpid())
        )
        self._channel = EngineChannel(self.connection)
        self._channel.send(asked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(0)

    def wait_until_ready(self) -> EngineDescription:
        """Wait until the engine has loaded.

        Raises:
            FarspanError: What it could not load, or that its process ended.
        """
        message = self._channel.receive()
        if message is None:
            code = self._process.wait()
            how = f"signal {-code}" if code < 0 else f"exit status {code}"
            raise FarspanError(
                f"the engine's process ended while it loaded ({how})", "read the log, and check the memory"
            )
        if "error" in message.header:
            raise unpack_error(message.header["error"])
        return EngineDescription(**message.header["ready"])

    def end(self, grace_s: float = _END_S) -> int:
        """End the process, after its current step or after so many seconds all the same; return its exit status."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        self._process.kill()
        return self._process.wait()
