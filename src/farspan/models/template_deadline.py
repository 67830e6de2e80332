"""A limit on the processor time of a chat template, which comes with a checkpoint and may loop without end."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class TemplateTimeoutError(BaseException):
    """The chat template took too long. Not an Exception, so that nothing on the way takes it for one of its own."""


class TemplateDeadline:
    """Raises TemplateTimeoutError in the main thread when its block takes too much processor time.

    The wall clock does not count: a machine with other work makes nothing fail. In any other thread there is no limit,
    since no signal is handled there.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._before: Any = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGPROF, self._expire)
            signal.setitimer(signal.ITIMER_PROF, self._seconds)

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, self._before if self._before is not None else signal.SIG_DFL)

    def _expire(self, _: int, __: FrameType | None) -> None:
        raise TemplateTimeoutError(
            f"the chat template took longer than {self._seconds:.1f} s of processor time"
        )
