"""How a request can end."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """How a request ended. Only `ok` is a success; every other state says why the request proves nothing."""

    OK = "ok"
    REFUSED = "refused"  # the server answered 4xx (or redirected): it understood and will not
    SERVER_ERROR = "server_error"  # the server answered 5xx, reported an error mid-stream, or sent nonsense
    UNREACHABLE = "unreachable"  # no connection could be made
    TIMED_OUT = "timed_out"  # a limit the user set passed
    CUT = "cut"  # the connection closed before the answer was complete
    WRONG_LENGTH = (
        "wrong_length"  # answered, but the server counted another number of prompt tokens than asked
    )
    WRONG_ANSWER = "wrong_answer"  # answered, but what was planted did not come back

    @property
    def answered(self) -> bool:
        """True when a complete answer came, right or wrong."""
        return self in (Status.OK, Status.WRONG_LENGTH, Status.WRONG_ANSWER)
