"""A report to paste has what helps and nothing that must not be public."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failing_logs import SGLANG, VLLM_V1, failed_start, served
from farspan.diagnosis.bundle import LogExcerpt, bundle_lines
from farspan.diagnosis.examine import examine
from farspan.diagnosis.redact import redact
from farspan.diagnosis.search_words import search_words
from farspan.errors import InputError
from farspan.verbs.doctor import doctor

PRIVATE = [
    "hf_AbCdEfGhIjKlMnOpQrStUvWx", "sk-proj-0123456789abcdef", "ghp_0123456789abcdefghij", "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF123456", "10.20.30.40", "203.0.113.7:8443", "2001:db8:0:1:2:3:4:5",
    "gpu-17.cluster.acme.internal", "alice@acme.com", "/home/alice/projects/secret/model", "~/private/weights",
    "https://artifacts.acme.io/repo", "s3://acme-models/llama", "/data/acme",
]  # fmt: skip
SHAPES = [
    "ERROR 05-01 10:00:00 [core.py:1] it failed with {} there", "ValueError: '{}' is bad", "Connecting to {}",
    "path={}, other=1",
    "(Worker pid=3) INFO 05-01 10:00:00 [x.py:1] using ({})", 'error: "{}"',
]  # fmt: skip


@pytest.mark.parametrize("private", PRIVATE)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_private_goes(private: str, shape: str) -> None:
    assert private not in redact(shape.format(private))


@pytest.mark.parametrize(
    "line",
    [
        "api_key='supersecret'",
        'password: "hunter2hunter2"',
        "HF_TOKEN=abcdefgh12345678",
        "Authorization: Bearer abc.def.ghi",
        "--api-key supersecretvalue",
    ],
)
def test_named_secrets_go(line: str) -> None:
    said = redact(line)
    assert not any(word in said for word in ("supersecret", "hunter2", "abcdefgh", "abc.def"))


@pytest.mark.parametrize(
    "line",
    [
        "INFO 05-01 10:00:00 [logger.py:40] Received request cmpl-1: prompt: 'my diagnosis is private', params: x",
        "[2026-05-01 10:00:00] Receive: obj=GenerateReqInput(text='my diagnosis is private')",
        "ERROR [dump_input.py:1] Dumping input data: prompt_token_ids=[1, 2, 3], 'my diagnosis is private'",
        "{'role': 'user', 'content': 'my diagnosis is private'}",
    ],
)
def test_what_clients_sent_goes(line: str) -> None:
    assert "diagnosis" not in redact(line)


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: CUDA error: out of memory",
        '  File ".../vllm/v1/engine/core.py", line 834, in run_engine_core',
        "ImportError: libnvrtc.so.12: cannot open shared object file: No such file or directory",
        "Avg prompt throughput: 981184.7 tokens/s, 2.0 GiB/s",
        "undefined symbol: _ZN3c106detail14torchCheckFailEPKcS2_jRKSs",
        "Model loading took 27.8072 GiB memory and 495.845126 seconds",
        "vLLM API server version 0.12.0",
    ],
)
def test_what_helps_stays(line: str) -> None:
    assert redact(line) == line


def test_runtime_prefixes_go() -> None:
    assert redact("[pod/scout-0/vllm] INFO x") == "INFO x"
    assert "gpu1" not in redact("Nov 22 20:00:39 gpu1 vllm[811]: INFO x")
    assert "/usr/local" not in redact(
        '  File "/usr/local/lib/python3.12/dist-packages/vllm/v1/core.py", line 3'
    )
    assert "dist-packages" not in redact(
        '  File "/opt/venv/lib/python3.12/dist-packages/vllm/v1/core.py", line 3'
    )


@given(st.text(max_size=300))
def test_any_line_can_be_redacted(line: str) -> None:
    redact(line)


def test_the_bundle_holds_the_failure_and_nothing_private(tmp_path: Path) -> None:
    log = failed_start(
        VLLM_V1,
        "OddError: the frobnicator at /home/alice/model met 10.20.30.40 and gave up early",
        frames=(("vllm/model_executor/models/odd.py", "load_weights"),),
        args="'api_key': ['hf_AbCdEfGhIjKlMnOpQrStUvWx'], 'chat_template': '/home/alice/t.jinja', ",
    ).replace(b"m/one", b"/home/alice/model")
    path, bundle = tmp_path / "a.log", tmp_path / "report.md"
    path.write_bytes(log)
    report = doctor(path, bundle=bundle)
    text = bundle.read_text()
    assert not [word for word in ("alice", "hf_AbC", "10.20.30.40") if word in text]
    for words in (
        "- vllm: 0.16.0",
        "- Python: 3.12",
        "odd.py: load_weights",
        "gave up early",
        "tensor_parallel_size=2",
    ):
        assert words in text
    assert search_words(report.server_state) in text
    assert "EngineCore failed to start" in text


def test_a_bundle_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        doctor([b"x\n"], bundle=tmp_path / "no" / "such.md")


def test_a_long_log_is_trimmed_around_its_errors() -> None:
    quiet = b"".join(b"INFO 05-01 10:00:00 [a.py:1] line %d\n" % number for number in range(5000))
    excerpt = LogExcerpt()
    report = examine(excerpt.through([quiet, b"ERROR 05-01 10:00:00 [a.py:1] the one error\n", quiet]))
    text = "\n".join(bundle_lines(report, excerpt))
    assert "the one error" in text
    assert len(text.split("\n")) < 400


@pytest.mark.parametrize(
    ("style", "error", "words"),
    [
        (
            VLLM_V1,
            "ValueError: Expected 14 blocks of layer 'model.layers.3' to be spread evenly",
            '"to be spread evenly"',
        ),
        (SGLANG, "KeyError: 'model.layers.3.mlp.gate_up_proj.weight_scale_inv'", '"weight_scale_inv"'),
        (VLLM_V1, "x.y.OddError: it broke /tmp/a/b", "OddError"),
    ],
)
def test_what_to_search_for(style: str, error: str, words: str) -> None:
    report = examine([failed_start(style, error)])
    assert words in search_words(report.server_state)
    assert any(words in step for step in report.findings[0].fix)
    assert any("--bundle" in step for step in report.findings[0].fix)


def test_a_server_that_serves_has_nothing_to_search_for() -> None:
    assert search_words(examine([served(VLLM_V1)]).server_state) == ""
