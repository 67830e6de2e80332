from __future__ import annotations

import pytest

from farspan.measurement.http.request_status import Status
from farspan.measurement.runs.advice import choose_fix, list_failures
from samples import make_result


@pytest.mark.parametrize(
    ("code", "words", "fix"),
    [
        (
            400,
            "This model's maximum context length is 131072 tokens. However, your prompt contains",
            "--max-model-len",
        ),
        (
            400,
            "The input (131073 tokens) is longer than the model's context length (131072 tokens).",
            "--context-length",
        ),
        (400, "Input length (9 tokens) exceeds the maximum allowed length (8 tokens).", "farspan plan"),
        (503, "The request queue is full.", "--concurrency"),
        (500, "EngineCore encountered an issue. See stack trace (above) for the root cause.", "log"),
        (500, "CUDA out of memory. Tried to allocate 20.00 GiB", "memory"),
        (400, "prompt: Input should be a valid string", "--prompt-as text"),
        (404, "The model `x` does not exist.", "--model"),
        (400, "Token id 300000 is out of vocabulary", "--tokenizer"),
        (401, "Unauthorized", "--api-key"),
        (400, "something nobody has seen", "the server said why"),
        (500, "boom", "log"),
    ],
)
def test_a_servers_words_are_translated_into_what_to_do(code: int, words: str, fix: str) -> None:
    status = Status.REFUSED if code < 500 else Status.SERVER_ERROR
    assert fix in choose_fix(status, code, f"HTTP {code}: {words}")


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_every_end_but_a_good_one_has_a_fix(status: Status) -> None:
    (failure,) = list_failures([make_result(status=status, error="x"), make_result()])
    assert failure.fix
    assert str(failure) == f"{status}: x; {failure.fix}"
