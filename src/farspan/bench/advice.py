"""What went wrong in a run, in one line each, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from farspan.bench.measure import Result
from farspan.bench.status import Status

_FIXES = {
    Status.SERVER_ERROR: "read the server's log",
    Status.UNREACHABLE: "check that the server still runs, then go on with --resume --retry-failed",
    Status.TIMED_OUT: "raise --first-token-timeout, --idle-timeout or --time-limit, or ask for less",
    Status.CUT: "read the server's log, it may have died; a proxy in between may also close long requests",
    Status.WRONG_LENGTH: "pass --tokenizer with the tokenizer (and chat template) the server uses",
    Status.WRONG_ANSWER: "compare reply and answer in requests.jsonl, and try a shorter context",
}
_REFUSALS = {
    401: "set OPENAI_API_KEY or --api-key",
    403: "set OPENAI_API_KEY or --api-key",
    404: "check --url, --model and --api",
    413: "raise the body size limit of the server or of the proxy before it",
    422: "check --api, and try --prompt-as text",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Requests that failed alike.

    Args:
        status: How they ended.
        error: Why, as the first of them puts it.
        count: How many there are.
        fix: What to do.
    """

    status: Status
    error: str
    count: int
    fix: str

    def __str__(self) -> str:
        times = "" if self.count == 1 else f" ({self.count} requests)"
        return f"{self.status}{times}: {self.error}; {self.fix}"


def list_failures(results: Iterable[Result]) -> tuple[Failure, ...]:
    """Group the failed requests by what happened, the most frequent first."""
    groups: dict[tuple[Status, int | None], list[Result]] = {}
    for result in results:
        if result.status is not Status.OK:
            groups.setdefault((result.status, result.http_status), []).append(result)
    failures = [
        Failure(status, group[0].error, len(group), _choose_fix(status, http_status))
        for (status, http_status), group in groups.items()
    ]
    return tuple(sorted(failures, key=lambda failure: -failure.count))


def _choose_fix(status: Status, http_status: int | None) -> str:
    if status is Status.REFUSED:
        return _REFUSALS.get(
            http_status or 0, "the server said why; change the request or the server's flags"
        )
    return _FIXES[status]
