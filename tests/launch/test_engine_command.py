"""The command lines of the engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from farspan.engines.command import Listen, Nodes, check_words, split_lists
from farspan.engines.registry import get_engine
from farspan.errors import InputError

HERE = Listen("127.0.0.1", 8000, "scout")
LOCKED = Listen("127.0.0.1", 8000, "scout", with_key=True)


def test_vllm_in_an_image_takes_the_model_first() -> None:
    command = get_engine("vllm").command("/models/scout", ("--max-model-len", "1000"), {"A": "1"}, HERE)
    assert command.program == ("vllm", "serve")
    assert command.arguments[:3] == ("/models/scout", "--max-model-len", "1000")
    served = ("--host", "127.0.0.1", "--port", "8000", "--served-model-name", "scout")
    assert command.arguments[3:] == ("--enable-prompt-tokens-details", *served)
    assert command.env == {"A": "1"}


def test_a_server_reports_what_a_proof_needs_and_each_flag_once() -> None:
    for name, flags in (
        ("sglang", ("--enable-metrics", "--enable-cache-report")),
        ("vllm", ("--enable-prompt-tokens-details",)),
    ):
        for given in ((), flags):
            command = get_engine(name).command("/m", given, {}, HERE)
            assert [command.argv.count(flag) for flag in flags] == [1] * len(flags)
    follower = get_engine("vllm").command("/m", (), {}, HERE, Nodes(2, "1", "10.0.0.1"))
    assert "--enable-prompt-tokens-details" not in follower.argv


def test_sglang_answers_health_without_generating() -> None:
    command = get_engine("sglang").command("/models/scout", ("--tp-size", "8"), {}, HERE)
    assert command.argv[:5] == ("python3", "-m", "sglang.launch_server", "--model-path", "/models/scout")
    assert command.env["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == "0"
    assert get_engine("sglang").live_path(with_key=False) == "/ping"
    assert (
        get_engine("sglang").live_path(with_key=True) == "/health"
    )  # /ping wants the key, which a probe cannot send
    assert get_engine("vllm").live_path(with_key=True) == "/health"


@pytest.mark.parametrize("engine", ["vllm", "sglang", "builtin"])
def test_keys_are_named_and_never_written(engine: str) -> None:
    command = get_engine(engine).command("/m", (), {}, LOCKED)
    assert len(command.secrets) == 1
    assert command.secrets[0].endswith("_API_KEY")
    assert "--api-key" not in command.argv
    assert command.secrets[0] not in command.env


def test_several_machines_under_vllm() -> None:
    head = get_engine("vllm").command("/m", (), {}, LOCKED, Nodes(2, "0", "10.0.0.1"))
    assert head.arguments[-10:] == (
        *("--distributed-executor-backend", "mp", "--nnodes", "2", "--node-rank", "0"),
        *("--master-addr", "10.0.0.1", "--master-port", "29501"),
    )
    other = get_engine("vllm").command("/m", (), {}, LOCKED, Nodes(2, "1", "10.0.0.1"))
    assert "--headless" in other.arguments
    assert "--port" not in other.arguments
    assert other.secrets == ()
    local = get_engine("vllm").command("/m", (), {}, HERE, Nodes(2, "1", "10.0.0.1"), python="/v/bin/python")
    assert local.program == ("/v/bin/python", "-m", "vllm.entrypoints.cli.main", "serve")


def test_several_machines_under_ray() -> None:
    head = get_engine("vllm").command(
        "/m", ("--tensor-parallel-size", "16"), {}, HERE, Nodes(2, "0", "h", "ray")
    )
    assert head.program[:2] == ("bash", "-c")
    assert "ray start --head" in head.program[2]
    assert head.arguments[:3] == ("vllm", "serve", "/m")
    assert head.arguments[-2:] == ("--distributed-executor-backend", "ray")
    other = get_engine("vllm").command("/m", (), {}, HERE, Nodes(2, "1", "10.0.0.1", "ray"))
    assert other.argv == ("ray", "start", "--address=10.0.0.1:6379", "--block")


def test_the_ray_head_waits_for_the_others_and_then_serves(tmp_path: Path) -> None:
    """The shell line, run with a ray and a vllm that only say what they were asked."""
    for name, body in {
        "ray": 'echo "ray $@"',
        "python3": f'exec {sys.executable} "$@"',
        "vllm": 'echo "vllm $@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "ray.py").write_text(
        "calls = []\n"
        "def init(address): assert address == 'auto'\n"
        "def nodes():\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2: print('asked twice', flush=True)\n"
        "    return [{'Alive': True}, {'Alive': len(calls) > 1}]\n"
    )
    command = get_engine("vllm").command("/m", (), {}, HERE, Nodes(2, "0", "h", "ray"))
    done = subprocess.run(
        command.argv,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout.splitlines()[:2] == ["ray start --head --port=6379", "asked twice"]
    assert done.stdout.splitlines()[2].startswith(
        "vllm serve /m --enable-prompt-tokens-details --host 127.0.0.1"
    )


def test_several_machines_under_sglang() -> None:
    command = get_engine("sglang").command("/m", (), {}, LOCKED, Nodes(2, "1", "10.0.0.1"))
    assert command.arguments[-6:] == (
        "--nnodes",
        "2",
        "--node-rank",
        "1",
        "--dist-init-addr",
        "10.0.0.1:29501",
    )
    with pytest.raises(InputError, match="one machine"):
        get_engine("builtin").command("/m", (), {}, HERE, Nodes(2, "0", "h"))


STUB = """
import dataclasses, json, os, pickle, sys
@dataclasses.dataclass
class ServerArgs:
    argv: list
    api_key: str | None = None
def prepare_server_args(argv):
    return ServerArgs(argv)
def run_server(args):
    print(json.dumps({"argv": args.argv, "printed": repr(args), "bearer": "Bearer " + args.api_key,
        "equal": args.api_key == "s3cret-key",
        "type_after_pickle": type(pickle.loads(pickle.dumps(args)).api_key).__name__,
        "environment": "SGLANG_API_KEY" in os.environ, "cmdline": open("/proc/self/cmdline").read()}))
def kill_process_tree(pid, include_parent):
    assert pid == os.getpid() and include_parent is False
    print("killed the rest")
"""


def test_sglang_gets_its_key_from_the_environment_and_never_shows_it(tmp_path: Path) -> None:
    for name in ("launch_server", "srt/server_args", "srt/utils"):
        file = tmp_path / "sglang" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("from sglang.stub import *\n")
    (tmp_path / "sglang" / "stub.py").write_text(STUB)
    command = get_engine("sglang").command("/m", ("--tp-size", "8"), {}, LOCKED, python=sys.executable)
    done = subprocess.run(
        command.argv,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "SGLANG_API_KEY": "s3cret-key"},
    )
    said, killed = done.stdout.splitlines()
    answer = json.loads(said)
    assert killed == "killed the rest"
    assert answer["argv"][:4] == ["--model-path", "/m", "--tp-size", "8"]
    assert answer["bearer"] == "Bearer s3cret-key"
    assert answer["equal"] is True
    assert answer["type_after_pickle"] == "str"
    assert "api_key='***'" in answer["printed"]
    assert "s3cret-key" not in answer["printed"] + answer["cmdline"]
    assert answer["environment"] is False


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("--api-key", "--api-key-env"),
        ("--api_key=abc", "--api-key-env"),
        ("--hf-token", "HF_TOKEN"),
        ("--port=1", "--port before"),
        ("--model", "MODEL before"),
        ("--nnodes", "--nodes before"),
    ],
)
def test_flags_that_are_not_the_users(word: str, fix: str) -> None:
    with pytest.raises(InputError) as caught:
        check_words((word, "x"))
    assert fix in caught.value.fix
    check_words(("--enforce-eager", "--seed", "1"))


def test_lists_stay_lists() -> None:
    planned = ("--cuda-graph-bs", "1 2 4", "--json", '{"a": 1}')
    words = ("--cuda-graph-bs", "1", "2", "4", "--json", '{"a": 1}')
    assert split_lists(planned, words) == words


def test_images_are_pinned_by_version() -> None:
    assert get_engine("vllm").image("0.12.0") == "vllm/vllm-openai:v0.12.0"
    assert get_engine("sglang").image("0.5.6.post2") == "lmsysorg/sglang:v0.5.6.post2-runtime"
    with pytest.raises(InputError, match="no public image"):
        get_engine("builtin").image("1")
