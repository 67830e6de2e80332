"""What the command line says when something is wrong: one clear line, the right exit code, JSON under --json."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from farspan.cli import failures
from farspan.cli.main import VERBS
from farspan.cli.output import print_json
from farspan.errors import DoesNotFitError, InputError

PLAN = ("plan", "llama-4-scout", "--gpus", "8xH200", "--context", "1M", "--offline")


def farspan(*words: str, **how: object) -> subprocess.CompletedProcess[str]:
    how.setdefault("stdout", subprocess.PIPE)
    return subprocess.run(  # type: ignore[call-overload]
        [sys.executable, "-m", "farspan", *words], stderr=subprocess.PIPE, text=True, timeout=60, **how
    )


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("plam", "plan"),
        ("benchmark", "bench"),
        ("Serv", "serve"),
        ("version", "--version"),
        ("help", "--help"),
    ],
)
def test_a_verb_misspelt_gets_the_nearest(word: str, meant: str) -> None:
    done = farspan(word)
    assert done.returncode == 2
    assert done.stderr == (
        f"farspan: there is no verb {word!r}; did you mean farspan {meant}? farspan --help lists the verbs\n"
    )


@pytest.mark.parametrize(
    ("words", "kind", "says"),
    [
        (("plan", "scout", "--gpus", "H200", "--context", "1M"), "NotFoundError", "llama-4-scout"),
        (("plan", "llama-4-scout", "--gpuss", "H200"), "InputError", "--gpus"),
        (("benchh",), "NotFoundError", "bench"),
        (("report", "/nowhere"), None, "/nowhere"),
    ],
)
def test_an_error_is_json_under_json_and_one_line_beside_it(
    words: tuple[str, ...], kind: str | None, says: str
) -> None:
    done = farspan(*words, "--json")
    said = json.loads(done.stdout)
    assert done.returncode == said["exit_code"] == 2
    assert says in said["error"] + said["fix"]
    assert kind in (None, said["kind"])
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.mark.parametrize("words", [PLAN, (*PLAN, "--json"), ("models",), ("--help",)])
def test_output_that_cannot_be_written_is_one_line(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = farspan(*words, stdout=full)
    assert done.returncode == 2
    assert (
        done.stderr == "farspan: its output: No space left on device; free some space, or write elsewhere\n"
    )


@pytest.mark.parametrize(("gpus", "code"), [("8xH200", 0), ("4xH100", 3)])
def test_a_reader_that_has_enough_changes_no_exit_code(gpus: str, code: int) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        words = ("plan", "llama-4-scout", "--gpus", gpus, "--context", "10M", "--explain")
        done = farspan(*words, stdout=closed)
    assert done.returncode == code
    assert done.stderr == ""


def test_a_terminal_without_unicode_gets_every_line_and_json_stays_utf8() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for words in (PLAN, (*PLAN, "--explain"), ("gpus",), ("bench", "--help")):
        done = farspan(*words, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
    done = farspan(*PLAN, "--json", env=environment)
    assert json.loads(done.stdout)["fits"] is True


def test_colours_are_left_out_when_asked() -> None:
    done = farspan(*PLAN, env={**os.environ, "NO_COLOR": "1", "FORCE_COLOR": ""})
    assert "\x1b" not in done.stdout


def test_a_full_disk_deep_in_a_group_is_still_one_line() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/results.jsonl")
    failure = failures.describe(ExceptionGroup("unhandled", [ExceptionGroup("inner", [full]), full]))
    assert failure is not None
    assert failure.exit_code == 2
    assert failure.message == "runs/a/results.jsonl: No space left on device"
    copied = failures.describe(
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "server.log", None, "runs/a/server.log")
    )
    assert copied is not None
    assert copied.message.startswith("runs/a/server.log: "), "of a copy, what is written"
    wrapped = failures.describe(ExceptionGroup("one", [DoesNotFitError("too large", "buy more")]))
    assert wrapped is not None
    assert wrapped.exit_code == 3


def test_a_bug_keeps_its_traceback() -> None:
    assert failures.describe(ValueError("a bug")) is None
    assert failures.describe(ExceptionGroup("mixed", [InputError("x"), ValueError("a bug")])) is None
    assert failures.describe(OSError(errno.ENOENT, "not caught where it should be")) is None


def complete(words: str, count: int) -> list[str]:
    environment = {
        **os.environ,
        "_FARSPAN_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(count),
    }
    code = "import sys; sys.argv = ['farspan']; from farspan.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_a_shell_completes_verbs_models_gpus_engines_and_runtimes() -> None:
    assert complete("farspan ", 1) == list(VERBS)
    assert complete("farspan pl", 1) == ["plan"]
    assert "llama-4-scout" in complete("farspan plan llama-4", 2)
    assert complete("farspan plan llama-4-scout --gpus 8xh200", 4) == ["8xH200"]
    assert complete("farspan plan llama-4-scout --engine v", 4) == ["vllm"]
    assert complete("farspan serve llama-4-scout --runtime k", 4) == ["kubernetes"]
    assert "--context" in complete("farspan plan llama-4-scout --cont", 3)


@pytest.mark.parametrize("name", ["SGLang", "vLLM", "VLLM", "BuiltIn"])
def test_an_engine_is_known_in_any_case(name: str) -> None:
    done = farspan("plan", "llama-4-scout", "--gpus", "1xH200", "--context", "8k", "--engine", name, "--json")
    assert done.returncode in (0, 3), done.stderr
    assert name.lower() in json.loads(done.stdout)["engines"]


def test_a_message_that_quotes_much_is_shortened_in_the_middle() -> None:
    failure = failures.describe(InputError(f"field x is {'a' * 100_000}, not a number", "write a number"))
    assert failure is not None
    assert failure.message.startswith("field x is aaa")
    assert failure.message.endswith("aaa, not a number")
    assert len(failure.message) < 1600


def test_json_takes_whole_numbers_of_any_size(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"bytes": 2**70, "word": "größe"})
    assert json.loads(capsys.readouterr().out) == {"bytes": 2**70, "word": "größe"}


def test_halves_of_characters_reach_no_output(capsys: pytest.CaptureFixture[str]) -> None:
    failures.report(failures.VerbFailure("no \ud800 here", "", "InputError", 2), as_json=True)
    said = capsys.readouterr()
    assert said.err == "farspan: no \N{REPLACEMENT CHARACTER} here\n"
    assert json.loads(said.out)["error"] == "no \ud800 here"
