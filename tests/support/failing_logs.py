"""Logs of servers that fail, made from the words of the failure: each engine's way of writing, by version."""

from __future__ import annotations

from collections.abc import Sequence

VLLM_V1 = "vllm-v1"
VLLM_V0 = "vllm-v0"
SGLANG = "sglang"
_SITE = "/usr/local/lib/python3.12/dist-packages"


def failed_start(style: str, error: str, *, frames: Sequence[tuple[str, str]] = (), args: str = "") -> bytes:
    """A start that ends with an exception: its last line, and more lines of its text, as that engine logs them.

    Args:
        style: How the engine writes.
        error: The exception's line; lines after a line break belong to its text.
        frames: (file, function) of the traceback, below the engine's own.
        args: More arguments, as the engine prints them.
    """
    trace = [
        line
        for file, function in (("vllm/x.py" if style != SGLANG else "sglang/srt/x.py", "run"), *frames)
        for line in (f'  File "{_SITE}/{file}", line 10, in {function}', "    do_it()")
    ]
    body = ["Traceback (most recent call last):", *trace, *error.split("\n")]
    if style == SGLANG:
        head = f"[2026-05-01 10:00:00] server_args=ServerArgs(model_path='m/one', tp_size=2, {args})"
        first = "[2026-05-01 10:01:00 TP1] Scheduler hit an exception: " + body[0]
        last = (
            "[2026-05-01 10:01:01] Received sigquit from a child process. It usually means the child failed."
        )
        return "\n".join([head, first, *body[1:], "", last, ""]).encode()
    if style == VLLM_V0:
        head = [
            "INFO 05-01 10:00:00 api_server.py:585] vLLM API server version 0.6.3",
            f"INFO 05-01 10:00:00 api_server.py:586] args: Namespace(model='m/one', tensor_parallel_size=2, {args})",
        ]
        return "\n".join([*head, *body, ""]).encode()
    prefix = "(EngineCore pid=90) ERROR 05-01 10:01:00 [core.py:946] "
    head = [
        "(APIServer pid=1) INFO 05-01 10:00:00 [api_server.py:1839] vLLM API server version 0.16.0",
        f"(APIServer pid=1) INFO 05-01 10:00:00 [utils.py:233] non-default args: {{'model': 'm/one', "
        f"'tensor_parallel_size': 2, {args}}}",
        f"{prefix}EngineCore failed to start.",
    ]
    tail = [
        "(APIServer pid=1) Traceback (most recent call last):",
        f'(APIServer pid=1)   File "{_SITE}/vllm/v1/engine/utils.py", line 1010, in wait_for_engine_startup',
        "(APIServer pid=1)     raise RuntimeError(",
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed "
        "core proc(s): {}",
    ]
    return "\n".join([*head, *(prefix + line for line in body), *tail, ""]).encode()


def served(style: str, *lines: str, args: str = "") -> bytes:
    """A server that is ready, prints some lines, and answers requests."""
    if style == SGLANG:
        begin = [
            f"[2026-05-01 10:00:00] server_args=ServerArgs(model_path='m/one', tp_size=1, {args})",
            "[2026-05-01 10:02:00] The server is fired up and ready to roll!",
        ]
        end = ['[2026-05-01 10:09:00] INFO:     10.0.0.1:5000 - "POST /v1/chat/completions HTTP/1.1" 200 OK']
    else:
        begin = [
            "(APIServer pid=1) INFO 05-01 10:00:00 [api_server.py:1839] vLLM API server version 0.16.0",
            f"(APIServer pid=1) INFO 05-01 10:00:00 [utils.py:233] non-default args: {{'model': 'm/one', {args}}}",
            "(APIServer pid=1) INFO:     Application startup complete.",
        ]
        end = ['(APIServer pid=1) INFO:     10.0.0.1:5000 - "POST /v1/chat/completions HTTP/1.1" 200 OK']
    return "\n".join([*begin, *lines, *end, ""]).encode()


def before_ready(style: str, *lines: str) -> bytes:
    """The same lines before a server is ready: it survived them."""
    log = served(style).decode().split("\n")
    at = 1 if style == SGLANG else 2
    return "\n".join([*log[:at], *lines, *log[at:]]).encode()
