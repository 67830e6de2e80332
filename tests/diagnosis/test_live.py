"""A running server, looked at: scripted servers over real sockets, real processes, recorded docker and kubectl."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from farspan.diagnosis.diagnose import Report
from farspan.diagnosis.live.live_view import LiveView
from farspan.diagnosis.live.processes import Process, cpu_ticks, parse_stack, process_tree, watched
from farspan.diagnosis.live.reach import PodReach, Reply, reach_of
from farspan.diagnosis.live.waits import findings_of
from farspan.diagnosis.report_json import report_object
from farspan.diagnosis.report_text import answer, report_lines
from farspan.engines.logs.findings import Severity
from farspan.engines.metric_source import Measure
from farspan.errors import InputError, NotFoundError, UnsupportedError
from farspan.verbs.doctor import doctor

VLLM = """\
vllm:num_requests_running{{engine="0"}} {running}
vllm:num_requests_waiting{{engine="0"}} {waiting}
vllm:kv_cache_usage_perc{{engine="0"}} {usage}
vllm:prefix_cache_queries_total{{engine="0"}} {queries}
vllm:prefix_cache_hits_total{{engine="0"}} {hits}
vllm:num_preemptions_total{{engine="0"}} {preemptions}
vllm:prompt_tokens_total{{engine="0"}} {prompt}
vllm:generation_tokens_total{{engine="0"}} {generated}
"""
QUIET = {
    "running": 0,
    "waiting": 0,
    "usage": 0.0,
    "queries": 0,
    "hits": 0,
    "preemptions": 0,
    "prompt": 0,
    "generated": 0,
}


@contextmanager
def serving(
    *states: dict[str, float], health: int = 200, info: dict[str, object] | None = None
) -> Iterator[str]:
    """A server whose metrics are the states, one a question, the last for ever."""
    left = list(states)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = 404, b""
            if self.path == "/health":
                status = health
            elif self.path == "/metrics" and states:
                state = left.pop(0) if len(left) > 1 else left[0]
                status, body = 200, VLLM.format(**{**QUIET, **state}).encode()
            elif self.path == "/server_info" and info is not None:
                status, body = 200, json.dumps(info).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def look_at(*states: dict[str, float], health: int = 200, info: dict[str, object] | None = None) -> Report:
    with serving(*states, health=health, info=info) as url:
        return doctor(url=url, seconds=1)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({}, {}, []),
        ({"running": 2, "generated": 10}, {"running": 2, "generated": 90}, []),
        ({"waiting": 1}, {"waiting": 1}, ["live-request-never-fits"]),
        ({"waiting": 1}, {"waiting": 0, "running": 1, "generated": 5}, []),
        ({"running": 1, "usage": 0.1}, {"running": 1, "usage": 0.2}, ["live-long-prefill"]),
        ({"running": 1, "usage": 0.2}, {"running": 1, "usage": 0.2}, ["live-step-hangs"]),
        (
            {"running": 9, "preemptions": 3, "generated": 1},
            {"running": 9, "preemptions": 40, "generated": 9},
            ["live-preemption-storm"],
        ),
        ({"queries": 90_000}, {"queries": 90_000}, ["live-no-prefix-hits"]),
        ({"queries": 90_000, "hits": 5_000}, {"queries": 90_000, "hits": 5_000}, []),
    ],
)
def test_what_it_waits_for(before: dict[str, float], after: dict[str, float], found: list[str]) -> None:
    report = look_at(before, after)
    assert [finding.id for finding in report.findings] == found
    assert report.engine == "vllm"
    assert "answers" in answer(report)
    json.dumps(report_object(report))
    assert all("\x1b" not in line for line in report_lines(report))


def test_a_server_that_is_sick_and_one_that_is_gone() -> None:
    (finding, *_) = look_at({}, health=503).findings
    assert (finding.id, finding.severity) == ("live-unhealthy", Severity.ERROR)
    assert "HTTP 503" in finding.cause
    with serving({}) as url:
        gone = url
    (finding,) = doctor(url=gone, seconds=1).findings
    assert finding.id == "live-no-answer"


def test_its_own_arguments_and_version_are_taken_over() -> None:
    report = look_at({}, info={"version": "0.5.16", "server_args": {"tp_size": 2, "model_path": "m/one"}})
    assert report.version == "0.5.16"
    assert report.server_state.args["tp_size"] == 2
    assert look_at({}, info={"version": 7}).version == ""


def view(**changes: object) -> LiveView:
    base: dict[str, object] = {
        "where": "here", "engine": "sglang", "version": "", "health": Reply(200, b"", 0.1), "seconds": 5.0,
        "before": {Measure.RUNNING: 1.0}, "after": {Measure.RUNNING: 1.0, Measure.GENERATION_TOKENS: 1.0},
    }  # fmt: skip
    return LiveView(**{**base, **changes})  # type: ignore[arg-type]


def test_the_prefix_tree_on_the_cpu() -> None:
    seen = view(
        processes=(Process(7, "sglang::scheduler_TP0", 1.0, "R"),),
        stacks={7: (("sglang/srt/mem_cache/radix_cache.py", "_match_prefix_helper"),)},
    )
    assert [finding.id for finding in findings_of(seen)] == ["live-prefix-tree"]
    idle = view(processes=(Process(7, "sglang::scheduler_TP0", 0.0, "S"),), stacks=seen.stacks)
    assert not list(findings_of(idle))


def test_a_front_end_at_its_limit() -> None:
    front = Process(7, "sglang::TokenizerManager", 1.0, "R")
    worker = Process(8, "sglang::scheduler_TP0", 0.1, "S")
    (finding,) = findings_of(
        view(processes=(front, worker), stacks={7: (("tokenization_utils.py", "encode"),)})
    )
    assert finding.id == "live-front-end-busy"
    assert "tokenizing" in finding.cause
    busy = Process(8, "sglang::scheduler_TP0", 1.0, "R")
    assert not list(findings_of(view(processes=(front, busy))))


def test_a_rank_that_is_gone() -> None:
    one = Process(8, "VLLM::Worker_TP0", 1.0, "R")
    (finding,) = findings_of(view(processes=(one,), settings={"tensor_parallel_size": 2}))
    assert finding.id == "live-dead-rank"
    (finding,) = findings_of(view(processes=(one, Process(9, "VLLM::Worker_TP1", 0.0, "Z"))))
    assert "process 9" in finding.cause
    assert not list(findings_of(view(processes=(one,), settings={"tensor_parallel_size": 1})))


DUMP = """\
Process 410: sglang::scheduler_TP0
Python v3.12.3 (/usr/bin/python3.12)

Thread 411 (idle): "Thread-1"
    wait (threading.py:359)
Thread 410 (active+gil): "MainThread"
    match_prefix (sglang/srt/mem_cache/radix_cache.py:301)
    get_next_batch (sglang/srt/managers/scheduler.py:1400)
"""


def test_a_stack_is_read() -> None:
    assert parse_stack(DUMP) == (
        ("sglang/srt/mem_cache/radix_cache.py", "match_prefix"),
        ("sglang/srt/managers/scheduler.py", "get_next_batch"),
    )
    assert parse_stack("Error: Permission Denied\n") == ()


def test_processes_are_watched() -> None:
    command = [
        sys.executable,
        "-c",
        "import time\nend = time.time() + 60\nwhile time.time() < end: pass",
        "api_server",
    ]
    child = subprocess.Popen(command)
    try:
        pids = process_tree(os.getpid())
        assert child.pid in pids
        before = cpu_ticks(pids)
        threading.Event().wait(1.0)
        processes = {one.pid: one for one in watched(before, cpu_ticks(pids), 1.0)}
        assert processes[child.pid].cpu_share > 0.05
        assert "api_server" in processes[child.pid].name
    finally:
        child.kill()
        child.wait()
    assert process_tree(child.pid) == ()


SERVER = """
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        if self.path == "/metrics": self.wfile.write(b"vllm:num_requests_running 0\\n")
    def log_message(self, *a): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), H)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def test_a_process_is_found_by_its_id_and_by_its_port() -> None:
    child = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        by_id = doctor(f"pid:{child.pid}", seconds=1)
        assert by_id.seen_at == f"http://127.0.0.1:{port}"
        assert by_id.engine == "vllm"
        assert reach_of("", url=f"http://127.0.0.1:{port}/v1").pids() == (child.pid,)
    finally:
        child.kill()
        child.wait()
    with pytest.raises(NotFoundError, match="there is no process"):
        doctor(f"pid:{child.pid}")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """docker and kubectl that answer what stands in files beside them, and record what they were asked."""
    for name in ("docker", "kubectl"):
        program = tmp_path / name
        program.write_text(
            f"#!{sys.executable}\nimport json, pathlib, sys\nhere = pathlib.Path({str(tmp_path)!r})\n"
            "with (here / 'asked').open('a') as f: f.write(json.dumps(sys.argv[1:]) + '\\n')\n"
            f"words = ' '.join(sys.argv[1:])\nanswers = json.loads((here / 'answers').read_text())\n"
            "found = next((text for key, text in answers.items() if key in words), None)\n"
            "if found is None: sys.exit('Error: no such thing')\nsys.stdout.write(found)\n"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "answers").write_text("{}")
    return tmp_path


def test_a_pod_is_asked_through_the_clusters_api(programs: Path) -> None:
    proxy = "/api/v1/namespaces/llm/pods/scout-0:8000/proxy"
    (programs / "answers").write_text(
        json.dumps(
            {
                f"{proxy}/metrics": VLLM.format(**{**QUIET, "waiting": 2}),
                f"{proxy}/health": "",
                f"{proxy}/version": '{"version": "0.16.0"}',
                "logs scout-0": "(APIServer pid=1) INFO:     Application startup complete.\n",
                "py-spy dump": DUMP,
            }
        )
    )
    report = doctor("pod:llm/scout-0", live=True, seconds=1)
    assert [finding.id for finding in report.findings] == ["live-request-never-fits"]
    assert report.seen_at == "pod llm/scout-0"
    asked = (programs / "asked").read_text()
    assert '["logs", "scout-0", "--namespace", "llm"]' in asked
    assert PodReach("scout-0", "llm", "", 8000).stack(1)[0][1] == "match_prefix"


def test_a_container_is_found_by_docker(programs: Path) -> None:
    told = [
        {
            "State": {"Pid": os.getpid()},
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "127.0.0.1"}}},
        }
    ]
    (programs / "answers").write_text(json.dumps({"inspect scout": json.dumps(told)}))
    with serving({"waiting": 1}) as url:
        port = int(url.rpartition(":")[2])
        reach = reach_of("container:scout", port=port)
        assert reach.where == url
        assert reach.get("/metrics", 5).status == 200
    with pytest.raises(NotFoundError, match="no container other"):
        reach_of("container:other")
    told[0]["State"] = {"Pid": 0}
    (programs / "answers").write_text(json.dumps({"inspect scout": json.dumps(told)}))
    with pytest.raises(InputError, match="does not run"):
        reach_of("container:scout")


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("", "ftp://x"),
        ("", "localhost:8000"),
        ("pid:x", ""),
        ("pod:a b", ""),
        ("container:-v", ""),
        ("a.log", ""),
    ],
)
def test_what_cannot_be_looked_at(source: str, url: str) -> None:
    with pytest.raises(InputError):
        reach_of(source, url=url)


def test_no_docker_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="docker is not installed"):
        reach_of("container:a")
    with pytest.raises(InputError, match="nothing to look at"):
        doctor()
