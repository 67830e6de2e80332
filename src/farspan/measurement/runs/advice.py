"""What went wrong in a run, in one line each, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.result import Result

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


# What servers say, and what to do about it. The words are those of vllm 0.12 to 0.32 (renderers/params.py,
# v1/engine/input_processor.py, v1/engine/exceptions.py), sglang 0.5.6 to 0.5.23 (srt/managers/tokenizer_manager.py,
# utils.py, scheduler.py) and of the frameworks below them.
_SAYINGS = (
    (
        r"maximum context length|model's context length|maximum model length|max_model_len",
        "start the server with a larger --max-model-len (vLLM) or --context-length (SGLang), or ask for less",
    ),
    (
        r"exceeds the maximum allowed length|max_total_num_tokens",
        "the KV pool is smaller than the request: farspan plan says what makes room",
    ),
    (r"queue is full", "lower --concurrency or --rate, or raise the server's --max-queued-requests"),
    (
        r"EngineCore encountered|EngineDead|engine (process )?(has )?died|Engine loop",
        "the engine died: read the server's log from its end backwards",
    ),
    (
        r"out of memory|CUDA error",
        "the GPU ran out of memory: lower the server's prefill step or its memory fraction, then restart it",
    ),
    (
        r"Extra inputs are not permitted|[Uu]nrecognized|Unexpected field",
        "remove that field from --extra-body",
    ),
    (
        r"valid string|list\[int\]|token ids? .*not supported",
        "the server takes no token ids: pass --prompt-as text",
    ),
    (r"out of vocabulary|vocab(ulary)? size", "pass --tokenizer with the tokenizer the server uses"),
    (
        r"model .*does not exist|model .*not found",
        "pass --model with a name the server lists under /v1/models",
    ),
    (r"chat template", "use --api completions, or start the server with --chat-template"),
)


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
        Failure(status, group[0].error, len(group), choose_fix(status, http_status, group[0].error))
        for (status, http_status), group in groups.items()
    ]
    return tuple(sorted(failures, key=lambda failure: -failure.count))


def choose_fix(status: Status, http_status: int | None, error: str) -> str:
    """Say what to do about a failed request: by the server's words where they are known, else by how it ended."""
    if status in (Status.REFUSED, Status.SERVER_ERROR):
        for pattern, fix in _SAYINGS:
            if re.search(pattern, error):
                return fix
    if status is Status.REFUSED:
        return _REFUSALS.get(
            http_status or 0, "the server said why; change the request or the server's flags"
        )
    return _FIXES[status]
