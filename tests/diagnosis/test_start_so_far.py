"""A log that ends in a start: how long it has been, what it waits for by its own progress line, how long is usual."""

from __future__ import annotations

import pytest

from farspan.diagnosis.diagnose import Doctor, Report
from farspan.diagnosis.log_reader import LogReader
from farspan.diagnosis.start_so_far import Bar, read_bar

BEGIN = """\
(APIServer pid=1) INFO 12-02 10:00:00 [api_server.py:1772] vLLM API server version 0.12.0
(APIServer pid=1) INFO 12-02 10:00:00 [utils.py:253] non-default args: {'model': '/m'}
(EngineCore_DP0 pid=80) INFO 12-02 10:00:20 [gpu_model_runner.py:3467] Starting to load model /m...
"""
BAR = (
    "(EngineCore_DP0 pid=80) Loading safetensors checkpoint shards: {percent}% Completed "
    "| {done}/50 [{took}<{left}, 9.41s/it]\n"
)
READY = "(APIServer pid=1) INFO:     Application startup complete.\n"


def report(text: str) -> Report:
    doctor, reader = Doctor(), LogReader()
    doctor.feed(reader.feed(text.encode()))
    doctor.feed(reader.close())
    return doctor.report()


def said(text: str) -> str:
    return " ".join(report(text).in_plain_terms)


def bar(done: int, took: str, left: str = "?") -> str:
    return BAR.format(percent=done * 2, done=done, took=took, left=left)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("34% Completed | 17/50 [02:40<05:10,  9.41s/it]", Bar(17, 50, 160.0)),
        ("Capturing CUDA graphs:  40%|####      | 20/51 [00:05<00:08,  3.9it/s]", Bar(20, 51, 5.0)),
        ("| 49/50 [1:02:03<01:15, 75s/it]", Bar(49, 50, 3723.0)),
        ("| 0/50 [00:00<?, ?it/s]", Bar(0, 50, 0.0)),
        ("| 51/50 [00:01<00:00, 1it/s]", None),
        ("Loading weights took 476.37 seconds", None),
    ],
)
def test_a_bar_is_read(text: str, expected: Bar | None) -> None:
    assert read_bar(text) == expected


def test_a_start_in_its_weights_says_how_long_and_how_much_is_left() -> None:
    text = said(BEGIN + bar(0, "00:00") + bar(17, "02:40", "05:10"))
    assert "The log ends at line 5 while the engine is loading the weights: 2 min 40 s in that phase" in text
    assert "3 min 00 s since the log's first line, at the least" in text
    assert "17 of 50 files in 2 min 40 s; at that pace the other 33 take 5 min 11 s." in text
    assert "compile 60.0 s, profile 22.0 s, graphs 13.0 s" in text
    assert "one start of Scout on 8x H200" in text


def test_nothing_read_yet_has_no_pace() -> None:
    text = said(BEGIN + bar(0, "00:00"))
    assert "0 of 50 files in 0 s." in text
    assert "at that pace" not in text


def test_a_full_bar_is_not_the_end() -> None:
    text = said(BEGIN + bar(50, "00:07", "00:00"))
    assert "50 of 50 files in 7.00 s. A full bar is not the end" in text
    assert "the bar was full after 7 s, loading over after 476 s" in text


def test_a_later_phase_has_only_what_follows() -> None:
    graphs = "Capturing CUDA graphs (PIECEWISE):  40%|####      | 20/51 [00:05<00:08,  3.9it/s]\n"
    text = said(BEGIN + bar(50, "00:07", "00:00") + graphs)
    assert "is capturing CUDA graphs" in text
    assert "20 of 51 steps in 5.00 s" in text
    assert "graphs 13.0 s." in text
    assert "compile" not in text
    assert "weights" not in text


@pytest.mark.parametrize(
    "ending",
    [
        READY,
        "(EngineCore_DP0 pid=80) ERROR 12-02 10:03:00 [core.py:10] EngineCore failed to start.\n"
        "(EngineCore_DP0 pid=80) ERROR 12-02 10:03:00 [core.py:10] torch.OutOfMemoryError: CUDA out of memory.\n",
    ],
)
def test_a_start_that_ended_is_not_under_way(ending: str) -> None:
    assert "The log ends at line" not in said(BEGIN + bar(17, "02:40", "05:10") + ending)


def test_a_pasted_line_is_no_start_that_waits_unless_it_is_the_bar_itself() -> None:
    pasted = BEGIN.splitlines()[2] + "\n"
    assert "The log ends at line" not in said(pasted)
    assert "17 of 50 files" in said(bar(17, "02:40", "05:10"))


def test_after_the_weights_are_loaded_it_is_at_what_follows_and_a_kernel_may_be_compiled() -> None:
    """Lines of vLLM 0.24.0 on an H200: Qwen3-Next stood there for four minutes until it was ended."""
    worker = "(EngineCore pid=932)"
    text = f"""\
(APIServer pid=797) INFO 12-01 08:27:36 [api_server.py:1772] vLLM API server version 0.24.0
(APIServer pid=797) INFO 12-01 08:27:36 [utils.py:253] non-default args: {{'model': '/m', 'enforce_eager': True}}
{worker} WARNING 12-01 08:28:15 [gdn/qwen_gdn_linear_attn.py:235] FlashInfer GDN prefill is JIT-compiled; first run \
may take a while. Set --gdn-prefill-backend triton to skip JIT.
{worker} INFO 12-01 08:28:15 [v1/worker/gpu_model_runner.py:5160] Starting to load model /m...
{worker} INFO 12-01 08:28:17 [v1/worker/gpu_model_runner.py:5255] Model loading took 18.69 GiB memory and 1.03 seconds
"""
    seen = report(text)
    words = " ".join(seen.in_plain_terms)
    assert "after the weights were loaded" in words
    assert "profile 22.0 s" in words
    assert "compile" not in words.partition("How long is usual")[2]
    assert any("--gdn-prefill-backend triton" in noise.why for noise in seen.noise)


def test_a_start_that_was_ended_says_how_long_loading_takes() -> None:
    stopped = "(EngineCore_DP0 pid=80) KeyboardInterrupt: terminated\n"
    text = said(BEGIN + bar(10, "01:00", "04:00") + stopped)
    assert "had read 10 of 50 files in 60.0 s: at that pace all of them take 5 min" in text
    assert "When the start ended" not in said(BEGIN + bar(50, "05:00", "00:00") + stopped)
    assert "When the start ended" not in said(BEGIN + bar(10, "01:00", "04:00") + READY)


def test_a_download_is_told_from_reading() -> None:
    fetching = "Fetching 50 files:  34%|███▍      | 17/50 [02:40<05:10,  9.41s/it]\n"
    text = said(BEGIN + fetching)
    assert "It downloads the model from the hub first: 17 of 50 files in 2 min 40 s" in text
    assert "the other 33 take 5 min 11 s. Then they are read from the disk." in text
    assert "17 of 50 files" in said(fetching), "also where nothing else is pasted"
    loading = said(
        BEGIN + fetching.replace("34%", "100%").replace("17/50", "50/50") + bar(10, "01:00", "04:00")
    )
    assert "Its own progress line: 10 of 50 files in 60.0 s" in loading
    assert "downloads" not in loading
    stopped = "(EngineCore_DP0 pid=80) KeyboardInterrupt: terminated\n"
    assert "had downloaded 17 of 50 files" in said(BEGIN + fetching + stopped)
