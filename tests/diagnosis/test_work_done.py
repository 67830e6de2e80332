"""What a log tells of work: tokens, times, the cache's share; and a single pasted line is an answerable question."""

from __future__ import annotations

import pytest

from farspan.diagnosis.diagnose import Report
from farspan.diagnosis.examine import examine
from farspan.diagnosis.report_text import answer, report_lines

RATE = (
    "(APIServer pid=1) INFO 12-18 {} [loggers.py:236] Engine 000: Avg prompt throughput: {} tokens/s, "
    "Avg generation throughput: {} "
    "tokens/s, Running: {} reqs, Waiting: 0 reqs, GPU KV cache usage: 1.0%, Prefix cache hit rate: {}%\n"
)
FIRST_CHAT = (
    "(APIServer pid=1) INFO 12-18 {} [chat_utils.py:574] Detected the chat template content format to be "
    "'openai'. You can set "
    "`--chat-template-content-format` to override this.\n"
)


def said(log: str) -> str:
    return " ".join(_report(log).in_plain_terms)


def _report(log: str) -> Report:
    return examine([log.encode()])


def test_work_begins_with_the_line_its_request_causes() -> None:
    log = (
        FIRST_CHAT.format("14:11:46")
        + RATE.format("14:37:28", 637856.3, 1.7, 1, 0.0)
        + RATE.format("14:37:38", 0.0, 18.3, 0, 0.0)
    )
    (finding,) = _report(log).findings
    assert "6,378,563 tokens in 1,542 s: 4,137 tokens/s" in finding.cause


def test_without_a_begin_the_tokens_are_said_all_the_same() -> None:
    (finding,) = _report(RATE.format("15:52:14", 981184.7, 9.3, 0, 0.0)).findings
    assert "9,811,847 tokens" in finding.cause
    assert "do not show when the work began" in finding.cause


def test_a_rate_line_is_tokens_of_ten_seconds() -> None:
    words = said(RATE.format("15:52:14", 981184.7, 9.3, 0, 0.0))
    assert "9,811,847 prompt tokens (981,184.7 tokens/s x 10 s)" in words
    assert "93 generated tokens (9.3 tokens/s x 10 s" in words


def test_a_warm_run_is_told() -> None:
    assert "Prefix cache hit rate 30.2% (line 1)" in said(RATE.format("11:23:09", 206527.9, 20.0, 0, 30.2))
    assert "hit rate" not in said(RATE.format("11:23:09", 206527.9, 20.0, 0, 0.0))


def test_sglangs_batch_lines_give_rates() -> None:
    lines = [
        f"[2026-12-18 19:46:{second:02} TP0] Prefill batch, #new-seq: 1, #new-token: 8192, #cached-token: "
        f"{cached}, token usage: 0.5, "
        "#running-req: 0, #queue-req: 0, \n"
        for second, cached in ((26, 4096), (30, 0), (34, 0))
    ]
    decode = (
        "[2026-12-18 19:46:40 TP0] Decode batch, #running-req: 1, #token: 9, token usage: 0.5, gen "
        "throughput (token/s): 60.11, "
        "#queue-req: 0, \n"
    )
    words = said("".join(lines) + decode)
    assert "16,384 tokens in 8 s: 2,048 tokens/s" in words
    assert "60.1 tokens/s" in words
    assert "4,096 of 28,672 prompt tokens (14.3%)" in words


def test_why_loading_takes_so_long() -> None:
    log = (
        "(APIServer pid=1) INFO 12-18 10:40:00 [utils.py:233] non-default args: {'model': 'm', "
        "'tensor_parallel_size': 8}\n"
        "(Worker_TP0 pid=402) INFO 12-18 10:57:44 [default_loader.py:308] Loading weights took 476.37 seconds\n"
        "(Worker_TP0 pid=402) INFO 12-18 10:57:44 [gpu_model_runner.py:3549] Model loading took 27.8072 "
        "GiB memory and 495.8 seconds\n"
        "(Worker_TP0 pid=402) INFO 12-18 11:20:00 [monitor.py:34] torch.compile takes 900.00 s in total\n"
    )
    words = said(log)
    assert "0.06 GiB/s a GPU" in words
    assert "96% of it reading files" in words
    assert "phase compile took 15 min" in words
    assert "network disk" not in said(log.replace("495.8", "12.0").replace("476.37", "10.0"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (RATE.format("11:12:09", 162034.5, 11.0, 1, 0.0), "serves"),
        (
            "Set OMP_NUM_THREADS in the external environment. Reducing Torch parallelism from 112 threads to 1",
            "Nothing is wrong: Each worker",
        ),
        (
            "x.py:110: FutureWarning: Using `TRANSFORMERS_CACHE` is deprecated and will be removed",
            "Nothing is wrong: An old variable",
        ),
        (
            "(EngineCore_DP0 pid=44) INFO 12-18 14:10:43 [kv_cache_utils.py:1286] GPU KV cache size: "
            "3,919,664 tokens",
            "part of a log",
        ),
        (
            "[2026-12-18 19:46:29] [http_server] Error: Request is disconnected from the client side (type 1).",
            "A client gave up",
        ),
        (
            '1f10   vllm/vllm-openai:v0.12.0   "vllm serve python3 …"   38 seconds ago   Exited (2) 24 seconds ago',
            "entrypoint",
        ),
    ],
)
def test_a_single_pasted_line_is_answered(line: str, words: str) -> None:
    report = _report(line)
    assert report.recognised
    assert words in answer(report)
    assert not any("ends during the start" in finding.cause for finding in report.findings)


def test_small_weights_are_said_in_their_own_unit() -> None:
    log = (
        "2026-12-01T08:05:05.291Z farspan built-in engine: torch 2.13.0+cpu loaded in 3.81 s\n"
        "2026-12-01T08:05:06.195Z farspan built-in engine: weights of 0.019 GiB loaded in 0.90 s\n"
    )
    report = _report(log)
    assert "Weights take 19.5 MiB on a GPU." in " ".join(report.in_plain_terms)
    assert any("weights" in line and line.endswith("900.0 ms, 19.5 MiB") for line in report_lines(report))
