"""Secrets and hostile values through whole launches: what runs is exactly what was meant, or one line says why not."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from click.testing import CliRunner, Result

from farspan.cli.main import group
from farspan.errors import FarspanError, LaunchError
from farspan.launch.docker import Docker
from farspan.launch.helper_environment import helper_environment
from farspan.launch.local import LocalServer, find_free_port
from farspan.launch.on_parent_death import OnParentDeath
from farspan.launch.program import Program
from played import Fakes

ROOT = Path(__file__).resolve().parents[2]
STARTED = ROOT / "tests" / "evidence" / "real" / "vllm-0.24.0-scout-shard.log"
SCOUT = ("serve", "llama-4-scout", "--gpus", "8xH200", "--offline", "--context", "1M", "--name", "scout")
KEY, TOKEN = "sesame-" + "4" * 12, "hf_" + "aB3" * 8
READY = {
    "conditions": [{"type": "Ready", "status": "True"}],
    "containerStatuses": [{"restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
}
# Whatever a shell, YAML, a template or a terminal would make of these: an engine gets them as they are.
WORDS = (
    "a b  c",
    "'; touch /tmp/x #",
    '"quoted"',
    "`id`",
    "$HOME",
    "${HOME}",
    "%s {0} {{x}}",
    "yes",
    "~",
    "null",
    "0x1f",
    "1e3",
    "key: value",
    "!!python/object:os.system",
    "&a *a",
    "|\n  two lines\n",
    "# none",
    "[1, 2",
    "{",
    "",
    "\u202eabc",
    "zażółć \U0001f680",
    "back\\slash",
    "a" * 20_000,
    "- item",
    "---\nkind",
    "-",
    "-0.5",
)
FLAGS = tuple(part for index, word in enumerate(WORDS) for part in (f"--own-{index}", word))


def farspan(*arguments: str) -> Result:
    return CliRunner().invoke(group, arguments, standalone_mode=False)  # as the farspan program does


def check_refused(done: Result, *never: str) -> None:
    """It ended with an error of the tree, or a usage error, whose text is one line and repeats no secret."""
    assert done.exit_code != 0, done.output
    error = done.exception
    assert isinstance(error, FarspanError) or type(error).__module__.startswith("click"), repr(error)
    said = done.output + str(error)
    assert not any(secret in said for secret in never)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setenv("SCOUT_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return KEY, TOKEN


def seen_by_others() -> Iterator[str]:
    """Every command line of this machine."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            yield " ".join(process.cmdline())


def written(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.read_text(errors="replace")


def test_docker_gets_secrets_by_name_alone(fakes: Fakes, secrets: tuple[str, str]) -> None:
    fakes.play(log=STARTED)
    done = farspan(
        *SCOUT, "--detach", "--json", "--port", str(find_free_port()), "--api-key-env", "SCOUT_KEY"
    )
    assert done.exit_code == 0, (done.output, done.exception)
    (run,) = (call for call in fakes.calls if call["argv"][1] == "run")
    assert run["secrets"] == {"VLLM_API_KEY": KEY, "HF_TOKEN": TOKEN}  # the client's environment alone
    commands = [" ".join(call["argv"]) + call["stdin"] for call in fakes.calls]
    records = list(written(fakes.folder.parent / "state"))
    assert records
    for secret in secrets:
        assert not any(secret in text for text in (*commands, *records, *seen_by_others(), done.output))
    for call in fakes.calls:
        if call["argv"][1] != "run":  # secrets are nobody else's, under whatever name
            assert call["secrets"] == {}, call["argv"]


def test_a_cluster_gets_secrets_by_reference_alone(fakes: Fakes, secrets: tuple[str, str]) -> None:
    fakes.play(log=STARTED, pods=[READY])
    references = ("--key-secret", "vllm-api-key:api", "--hf-secret", "hf-token-secret:token")
    done = farspan(*SCOUT, "--runtime", "kubernetes", "--detach", "--json", *references)
    assert done.exit_code == 0, (done.output, done.exception)
    texts = [" ".join(call["argv"]) + call["stdin"] for call in fakes.calls]
    applied = (fakes.folder / "applied.yaml").read_text()
    assert "secretKeyRef" in applied
    records = list(written(fakes.folder.parent / "state"))
    for secret in secrets:
        assert not any(secret in text for text in (*texts, *records, applied, *seen_by_others(), done.output))
    assert all(set(call["secrets"]) <= {"SCOUT_KEY"} for call in fakes.calls)  # which nobody named


def test_who_waits_to_clean_up_has_no_secret(secrets: tuple[str, str]) -> None:
    withheld = Docker(["SCOUT_KEY"]).program.withheld
    waiting = OnParentDeath(["true"], helper_environment(withheld=withheld))
    try:
        (child,) = [one for one in psutil.Process().children() if "on_parent_death.py" in str(one.cmdline())]
        environment = child.environ()
        assert environment["PATH"] == os.environ["PATH"]
        assert not any(secret in value for secret in secrets for value in environment.values())
    finally:
        waiting.dismiss()


def test_a_local_server_has_the_key_under_its_engines_name_alone(
    tmp_path: Path, secrets: tuple[str, str]
) -> None:
    log = tmp_path / "log"
    environment = {"VLLM_API_KEY": secrets[0]}
    with LocalServer(["env"], log=log, environment=environment, withheld=["SCOUT_KEY"]) as server:
        server.wait(20)
    assert f"VLLM_API_KEY={secrets[0]}" in log.read_text()
    assert "SCOUT_KEY" not in log.read_text()


@pytest.mark.parametrize("runtime", ["local", "docker", "kubernetes"])
@pytest.mark.parametrize(
    "words", [("--own", "a" * 200_000), ("--own", "ż" * 70_000), (*["--own-x", "b" * 100_000] * 20,)]
)
def test_words_too_long_for_any_program_are_refused(
    fakes: Fakes, runtime: str, words: tuple[str, ...]
) -> None:
    done = farspan(*SCOUT, "--engine-version", "0.24.0", "--runtime", runtime, "--force", "--", *words)
    check_refused(done)
    assert "too long to start a program with" in str(done.exception)
    assert fakes.calls == []


def test_an_environment_too_long_for_any_program_is_one_error(tmp_path: Path) -> None:
    long = {f"LONG_{number}": "x" * 130_000 for number in range(100)}
    with pytest.raises(LaunchError, match=r"Argument list too long.*shorten the words"):
        LocalServer(["true"], log=tmp_path / "log", environment=long)
    with pytest.raises(LaunchError, match=r"true cannot be run .Argument list too long.; shorten the words"):
        Program("true", "").run(environment=long)
    with pytest.raises(LaunchError, match=r"cannot be run .Permission denied."):
        Program(str(tmp_path), "").run()


SPELLINGS = (
    ("--api-key", KEY),
    (f"--api-key={KEY}",),
    ("--api_key", KEY),
    (f"--API_KEY={KEY}",),
    ("--api-k", KEY),
    ("-api-key", KEY),
    ("--own", KEY),
    ("--own", f"x{KEY}y"),
    (f"--own={KEY}",),
    (KEY,),
    ("--hf-token", TOKEN),
    ("--hf_t", TOKEN),
    ("--own", f'{{"token": "{TOKEN}"}}'),
    ("--own", f"Authorization: Basic {KEY}"),
    ("--aws-secret-access-key", "AbC"),
    ("--own", f"https://me:{KEY}@hub.example/x"),
    ("--own", f"https://hub.example/x?token={TOKEN}"),
)


@pytest.mark.parametrize("runtime", ["local", "docker", "kubernetes"])
def test_no_spelling_of_a_secret_among_the_flags_starts_anything(
    fakes: Fakes, secrets: tuple[str, str], runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    fakes.play(log=STARTED, pods=[READY])
    with_key = () if runtime == "kubernetes" else ("--api-key-env", "SCOUT_KEY")
    version = ("--engine-version", "0.24.0")
    for words in SPELLINGS:
        check_refused(farspan(*SCOUT, *version, "--runtime", runtime, *with_key, "--", *words), *secrets)
    assert fakes.calls == []
    assert not any(secret in text for secret in secrets for text in written(fakes.folder.parent / "state"))


@pytest.mark.parametrize(
    "options",
    [
        ("--docker-arg", f"--env=HF_TOKEN={TOKEN}"),
        ("--docker-arg", "-e", "--docker-arg", f"HF_TOKEN={TOKEN}"),
        ("--docker-arg", f"--env=ANY={KEY}"),
        ("--docker-arg", f"-eVLLM_API_KEY={KEY}"),
        ("--served-model-name", KEY),
        ("--image", f"registry.example/{TOKEN}/vllm"),
        ("--runtime", "kubernetes", "--node-selector", f"a={TOKEN}"),
        ("--runtime", "kubernetes", "--hf-secret", TOKEN),
        ("--runtime", "kubernetes", "--volume", f"/data/{TOKEN}"),
    ],
)
def test_no_option_takes_a_secret(fakes: Fakes, secrets: tuple[str, str], options: tuple[str, ...]) -> None:
    key = () if "kubernetes" in options else ("--api-key-env", "SCOUT_KEY")
    check_refused(farspan(*SCOUT, *key, *options), *secrets)
    assert fakes.calls == []


def test_a_cluster_gets_every_word_as_it_is(fakes: Fakes) -> None:
    fakes.play(log=STARTED, pods=[READY])
    name = "a b '\"`id`%s: \U0001f680"
    done = farspan(
        *SCOUT, "--runtime", "kubernetes", "--detach", "--served-model-name", name, "--volume", "/data: {x}/ż",
        *("--node-selector", "gpu=yes", "--force", "--", *FLAGS),
    )  # fmt: skip
    assert done.exit_code == 0, (done.output[-500:], done.exception)
    (text,) = (call["stdin"] for call in fakes.calls if "apply" in call["argv"])
    workload, service = yaml.safe_load_all(text)
    pod = workload["spec"]["template"]["spec"]
    arguments = pod["containers"][0]["args"]
    assert arguments[arguments.index("--served-model-name") + 1] == name
    for flag, word in zip(FLAGS[::2], WORDS, strict=True):
        assert arguments[arguments.index(flag) + 1] == word
    assert pod["nodeSelector"] == {"gpu": "yes"}
    assert pod["volumes"][1]["hostPath"]["path"] == "/data: {x}/ż"
    assert (workload["kind"], service["kind"]) == ("Deployment", "Service")


def test_docker_gets_every_word_as_it_is(fakes: Fakes) -> None:
    fakes.play(log=STARTED)
    name = "a b '\"`id`%s: $HOME \U0001f680"
    done = farspan(
        *(*SCOUT, "--runtime", "docker", "--detach", "--port", str(find_free_port())),
        *(
            "--served-model-name",
            name,
            "--force",
            "--",
            *FLAGS,
            "--own-equals=--x=y",
            "--own-joined=---\nkind",
            "ENGINE_X=- y",
        ),
    )
    assert done.exit_code == 0, (done.output[-500:], done.exception)
    (run,) = (call["argv"] for call in fakes.calls if call["argv"][1] == "run")
    assert run[run.index("--served-model-name") + 1] == name
    for flag, word in zip(FLAGS[::2], WORDS, strict=True):
        assert run[run.index(flag) + 1] == word
    assert "--own-equals=--x=y" in run
    assert "--own-joined=---\nkind" in run
    assert (
        "ENGINE_X=- y" in run[: run.index("--served-model-name")]
    )  # a variable, not one of the engine's words
    assert "ENGINE_X" not in run


HOSTILE = ("a\nb", "a\x00b", "a\rb", "a\x1b[2Jb", "-x", "--privileged", " a", "x" * 5_000, "a\udcffb")


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_every_option_refuses_what_would_be_misread(fakes: Fakes, value: str) -> None:
    everywhere = (
        *(
            "--served-model-name",
            "--image",
            "--model-path",
            "--revision",
            "--host",
            "--head",
            "--engine-version",
        ),
        *("--name", "--devices", "--compile-cache"),
    )
    cluster = ("--namespace", "--kube-context", "--volume", "--hf-secret", "--key-secret", "--node-selector")
    for option in everywhere:
        check_refused(farspan(*SCOUT, f"{option}={value}"))
    for option in cluster:
        given = (
            f"{option}=a={value}"
            if option == "--node-selector" and value[0] not in "- "
            else f"{option}={value}"
        )
        check_refused(farspan(*SCOUT, "--runtime", "kubernetes", given))
    check_refused(farspan("serve", "--gpus", "8xH200", "--offline", "--", value))
    assert fakes.calls == []


@pytest.mark.parametrize("word", ["a\x00b", "a\udcffb"], ids=ascii)
@pytest.mark.parametrize("runtime", ["docker", "kubernetes"])
def test_words_that_no_program_can_be_given_are_refused(fakes: Fakes, runtime: str, word: str) -> None:
    check_refused(farspan(*SCOUT, "--runtime", runtime, "--force", "--", "--own", word))
    check_refused(farspan(*SCOUT, "--runtime", "docker", "--docker-arg", word))
    assert fakes.calls == []


@pytest.mark.parametrize(
    "options",
    [
        ("--host", "a" * 70 + ".example"),
        ("--host", "nowhere.invalid"),
        ("--host", "127.0.0.1:80:80"),
        ("--devices", '0",capabilities="all'),
        ("--compile-cache", "/tmp/a:/etc"),
        ("--served-model-name", "$(HF_TOKEN)", "--runtime", "kubernetes"),
    ],
)
def test_values_with_a_meaning_of_their_own_are_refused(fakes: Fakes, options: tuple[str, ...]) -> None:
    fakes.play(log=STARTED)
    check_refused(farspan(*SCOUT, *options))
    assert not any(call["argv"][1] in ("run", "apply") for call in fakes.calls)


@pytest.mark.parametrize("key", ["a\nb", "a\r\nX-Evil: 1", " ", "schlüssel", "\udcff"], ids=ascii)
def test_a_key_that_no_header_can_carry_is_refused(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("SCOUT_KEY", key)
    check_refused(farspan(*SCOUT, "--api-key-env", "SCOUT_KEY"))
    assert fakes.calls == []


def test_the_program_says_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "XDG_STATE_HOME": str(tmp_path)}
    arguments = [*SCOUT, "--served-model-name", "a\nb\x1b[2J", "--", "--api-key", KEY]
    for extra in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "farspan", arguments[0], *extra, *arguments[1:]],
            capture_output=True,
            text=True,
            env=environment,
            timeout=100,
        )
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert not any(text in done.stderr + done.stdout for text in (KEY, "\x1b"))
        assert not done.stdout or json.loads(done.stdout)
