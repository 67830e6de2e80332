"""What no single exception shows: who ended a server, what is passed on, and what a process survived."""

from __future__ import annotations

import pytest

from failing_logs import SGLANG, VLLM_V1, failed_start, served
from farspan.diagnosis.examine import examine
from farspan.diagnosis.report_text import answer
from farspan.engines.logs.findings import Severity

STARTED = """\
(APIServer pid=1) INFO 05-01 10:00:00 [api_server.py:1839] vLLM API server version 0.16.0
(APIServer pid=1) INFO 05-01 10:00:00 [utils.py:233] non-default args: {'model': 'm/one', 'tensor_parallel_size': 2}
(Worker_TP0 pid=20) INFO 05-01 10:00:40 [gpu_model_runner.py:380] Starting to load model m/one...
(Worker_TP0 pid=20) Loading safetensors checkpoint shards:  20% Completed | 6/30 [00:49<03:17,  8.24s/it]
"""
READY = STARTED + "(APIServer pid=1) INFO:     Application startup complete.\n"
SIGTERM = (
    "(EngineCore pid=9) INFO 05-01 10:02:00 [core.py:1433] [shutdown] EngineCore: trigger received "
    "signal=SIGTERM\n"
)


def errors(log: str | bytes) -> list[str]:
    report = examine([log.encode() if isinstance(log, str) else log])
    return [finding.id for finding in report.findings if finding.severity is Severity.ERROR]


def test_a_start_that_was_ended() -> None:
    log = STARTED + (
        "(APIServer pid=1) Traceback (most recent call last):\n"
        '(APIServer pid=1)   File "/x/api_server.py", line 1214, in signal_handler\n'
        '(APIServer pid=1)     raise KeyboardInterrupt("terminated")\n'
        "(APIServer pid=1) KeyboardInterrupt: terminated\n"
    )
    report = examine([log.encode()])
    assert [finding.id for finding in report.findings] == ["stopped-while-starting"]
    assert "startupProbe" in report.findings[0].fix[0]
    assert answer(report).startswith("vllm 0.16.0 was stopped before it was ready")


def test_a_server_that_was_ended_before_it_served() -> None:
    dying = (
        "(APIServer pid=1) ERROR 05-01 10:02:01 [async_llm.py:712] "
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore "
        "encountered an issue. See stack trace (above) for the root cause.\n"
    )
    assert errors(READY + SIGTERM + dying) == ["stopped-unserved"]
    answered = '(APIServer pid=1) INFO:     10.0.0.1:5000 - "GET /health HTTP/1.1" 200 OK\n'
    assert errors(READY + answered + SIGTERM + dying) == []


@pytest.mark.parametrize("program", ["vllm", "vllm serve", "api_server.py", "sglang", "launch_server.py"])
def test_a_value_the_command_line_does_not_take(program: str) -> None:
    log = (
        f"usage: x [-h]\n{program}: error: argument --load-format: invalid choice: 'fast' (choose from "
        "'auto', 'fastsafetensors')\n"
    )
    report = examine([log.encode()])
    assert [finding.id for finding in report.findings] == ["bad-flag-value"]
    assert "take one of auto, fastsafetensors" in report.findings[0].fix[-1]
    assert "did not start" in answer(report)
    assert errors("sglang: error: the following arguments are required: --model-path\n") == ["bad-flag-value"]


def test_a_worker_that_left_no_word_and_its_server_that_kills_itself() -> None:
    fatal = (
        "CRITICAL 05-01 10:01:00 [core_client.py:359] Got fatal signal from worker processes, "
        "shutting down. See stack trace above "
        "for root cause issue.\nKilled\n"
    )
    assert errors(STARTED + fatal) == ["vllm-worker-ended"]
    # The worker did say why: then that is the reason, and what follows its consequence.
    said = failed_start(VLLM_V1, "ValueError: LoRA rank 64 is greater than max_lora_rank 16.").decode()
    assert errors(said + fatal) == ["lora-rank"]


def test_killed_is_the_hosts_doing_only_where_nothing_failed() -> None:
    assert errors(STARTED + "Killed\n") == ["killed"]
    log = failed_start(SGLANG, "ValueError: an odd one").decode()
    assert errors(
        log + "./run.sh: line 22: 103525 Killed                  python -m sglang.launch_server\n"
    ) == ["first-error"]


def test_clients_that_gave_up() -> None:
    batches = [
        f"[2026-05-01 10:03:{second:02} TP0] Prefill batch, #new-seq: 1, #new-token: 8192, "
        f"#cached-token: 0, token usage: 0.5, "
        "#running-req: 0, #queue-req: 0, "
        for second in (0, 4, 8)
    ]
    gone = (
        "[2026-05-01 10:03:03] [http_server] Error: Request is disconnected from the client side "
        "(type 1). Abort request"
    )
    report = examine([served(SGLANG, batches[0], gone, *batches[1:])])
    (finding,) = report.findings
    assert (finding.id, finding.severity) == ("client-disconnected", Severity.WARNING)
    assert "16,384 prompt tokens in 8 s, 2,048 tokens/s" in finding.cause


WRAPPERS = (
    "torch._inductor.exc.InductorError: CalledProcessError: Command '['/usr/bin/gcc']' returned "
    "non-zero exit status 1.",
    "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace "
    "(above) for the root cause.",
    "RuntimeError: cancelled",
    "RuntimeError: Worker failed with error 'cancelled', please check the stack trace above for the root cause",
    "ray.exceptions.RayTaskError(RuntimeError): ray::RayWorkerWrapper.execute_method() (pid=20, ip=10.0.0.9)",
    "subprocess.CalledProcessError: Command '['ninja', '-v']' returned non-zero exit status 1.",
    "EOFError",
)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_log_of_wrappers_alone_says_who_has_the_reason(wrapper: str) -> None:
    (finding,) = examine([failed_start(VLLM_V1, wrapper)]).findings
    assert finding.id == "first-error"
    assert finding.cause.startswith("The log does not hold the cause")


CHILDREN = (
    "/tmp/x/main.c:3:10: fatal error: Python.h.missing: No such file or directory",
    "/usr/bin/ld: cannot find -lcudart_static: No such file or directory",
    'a.cu(31): error: identifier "__nv_fp4_e2m1" is undefined',
    "terminate called after throwing an instance of 'c10::Error'",
    "free(): invalid pointer",
    "python: malloc.c:2617: sysmalloc: Assertion `(old_top == initial_top (av))' failed.",
)


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("child", CHILDREN)
def test_wrappers_are_seen_through_to_the_childs_own_line(wrapper: str, child: str) -> None:
    (finding, *_) = examine([failed_start(VLLM_V1, f"{wrapper}\n{child}")]).findings
    assert finding.id == "first-error"
    assert child in finding.evidence.text


@pytest.mark.parametrize("style", [VLLM_V1, "vllm-v0", SGLANG])
@pytest.mark.parametrize(
    "name",
    ["odd.OutOfLuck", "zmq.error.Again", "flashinfer.jit.core.Unbuilt", "StopAsyncIteration", "MyWarning"],
)
def test_any_exceptions_name_counts(style: str, name: str) -> None:
    (finding, *_) = examine([failed_start(style, f"{name}: why it is so")]).findings
    assert finding.id == "first-error"
    assert f"{name}: why it is so" in finding.cause
    assert "did not start" in answer(examine([failed_start(style, f"{name}: why it is so")]))


def test_a_bare_assertion_shows_its_source() -> None:
    log = (
        failed_start(SGLANG, "AssertionError")
        .decode()
        .replace("    do_it()\nAssertionError", "    assert self.heads == 8\nAssertionError")
    )
    (finding, *_) = examine([log.encode()]).findings
    assert "AssertionError: assert self.heads == 8" in finding.cause


def test_a_traceback_that_ends_the_log_is_a_failed_start() -> None:
    log = (
        'Traceback (most recent call last):\n  File "/opt/vllm/entrypoints/cli/main.py", line 3, in '
        "<module>\n    import x\nOddOne: no\n"
    )
    report = examine([(STARTED + log).encode()])
    assert report.worst is Severity.ERROR
    for words in ("the server went on", "Nothing is wrong"):
        assert words not in answer(report) + report.findings[0].cause


def test_what_a_process_survived_is_not_the_reason() -> None:
    caught = (
        "(Worker_TP0 pid=20) ERROR 05-01 10:00:20 [x.py:1] Traceback (most recent call last):\n"
        '(Worker_TP0 pid=20) ERROR 05-01 10:00:20 [x.py:1]   File "/x/y.py", line 1, in probe\n'
        "(Worker_TP0 pid=20) ERROR 05-01 10:00:20 [x.py:1] KeyError: 'a probe that was caught'\n"
    )
    log = STARTED.replace("(Worker_TP0 pid=20) INFO", caught + "(Worker_TP0 pid=20) INFO", 1)
    raised = failed_start(VLLM_V1, "RuntimeError: the real one").decode().split("\n", 2)[2]
    (finding, *_) = examine([(log + raised).encode()]).findings
    assert "the real one" in finding.cause


@pytest.mark.parametrize("flag", ["tp_size=2", "pp_size=4"])
def test_a_warm_up_that_hangs_is_no_matter_of_the_timeout(flag: str) -> None:
    log = (
        f"[2026-05-01 10:00:00] server_args=ServerArgs(model_path='m/one', {flag}, mem_fraction_static=0.85)\n"
        "[2026-05-01 10:05:00 TP0] Prefill batch, #new-seq: 1, #new-token: 64, #cached-token: 0, "
        "token usage: 0.00, #running-req: 0, "
        "#queue-req: 0, \n"
        "[2026-05-01 10:10:00 TP0] Scheduler watchdog timeout (self.watchdog_timeout=300, self.soft=False)\n"
        "[2026-05-01 10:10:05] SIGQUIT received. signum=None, frame=None. It usually means one child failed.\n"
    )
    report = examine([log.encode()])
    finding = next(one for one in report.findings if one.id == "sglang-watchdog")
    assert "a rank hangs" in finding.cause
    assert not any("--watchdog-timeout 3600" in step for step in finding.fix)
    assert ("pipeline" in " ".join(finding.fix)) is flag.startswith("pp")


@pytest.mark.parametrize(
    "child",
    [
        "free(): invalid pointer",
        "double free or corruption (out)",
        "malloc(): unaligned tcache chunk detected",
    ],
)
def test_an_abort_of_the_c_library_is_read_without_a_traceback(child: str) -> None:
    (finding, *_) = examine([f"{STARTED}{child}\nAborted (core dumped)\n".encode()]).findings
    assert finding.id == "first-error"
    assert child in finding.cause


def test_a_server_that_ended_politely_has_ended() -> None:
    log = READY + '(APIServer pid=1) INFO:     10.0.0.1:5000 - "GET /v1/models HTTP/1.1" 200 OK\n'
    log += (
        "(APIServer pid=1) INFO:     Shutting down\n(APIServer pid=1) INFO:     Finished server process [1]\n"
    )
    assert "served and was stopped. Nothing is wrong" in answer(examine([log.encode()]))
