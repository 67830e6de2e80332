"""A thread that waits for sockets and calls back, so that nothing the event loop does delays a time taken here."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

Callback = Callable[[int], None]


class Reactor:
    """Calls back when a socket is ready. Use as a context manager; the thread ends with it.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._calls: deque[Callable[[], None]] = deque()
        self._waker, self._wakened = socket.socketpair()
        self._wakened.setblocking(False)
        self._selector.register(self._wakened, READ)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self.call(lambda: None)
        self._thread.join()
        self._selector.close()
        self._waker.close()
        self._wakened.close()

    def call(self, function: Callable[[], None]) -> None:
        """Have a function called on the reactor's thread, in the order of the calls; from any thread."""
        self._calls.append(function)
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def watch(self, sock: socket.socket, events: int, callback: Callback) -> None:
        """Call back with the events that are ready; on the reactor's thread. Watching again changes the events."""
        if sock in self._selector.get_map():
            self._selector.modify(sock, events, callback)
        else:
            self._selector.register(sock, events, callback)

    def forget(self, sock: socket.socket) -> None:
        """Watch a socket no longer; on the reactor's thread, before it is closed."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def _run(self) -> None:
        while not (self._closing and not self._calls):
            for key, ready in self._selector.select():
                callback = key.data
                if callback is not None:
                    if key.fileobj in self._selector.get_map():  # not forgotten by one called before it
                        callback(ready)
                    continue
                with contextlib.suppress(BlockingIOError):
                    self._wakened.recv(4096)
            while self._calls:
                self._calls.popleft()()
