"""Files, packed files, pipes, containers and pods; docker and kubectl are recorded fakes on PATH."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from farspan.diagnosis.sources import read_source
from farspan.errors import InputError

LOG = b"[2026-01-05 09:00:00] The server is fired up and ready to roll!\n" * 3


def read(source: str, *, container: str = "", previous: bool = False) -> bytes:
    return b"".join(read_source(source, container=container, previous=previous))


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """docker and kubectl that record their arguments, and fail for the name `gone`."""
    for name in ("docker", "kubectl"):
        program = tmp_path / name
        program.write_text(
            f"#!{sys.executable}\nimport json, sys\n"
            f"open({str(tmp_path / 'called.json')!r}, 'w').write(json.dumps(sys.argv))\n"
            "if 'gone' in sys.argv:\n    sys.exit('Error: No such container: gone')\n"
            f"sys.stdout.write('out\\n'); sys.stdout.flush(); sys.stderr.write({LOG.decode()!r})\n"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "called.json"


def test_a_file_and_a_packed_file(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(LOG)
    (tmp_path / "a.log.gz").write_bytes(gzip.compress(LOG))
    assert read(str(tmp_path / "a.log")) == LOG
    assert read(str(tmp_path / "a.log.gz")) == LOG


def test_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LOG)))
    assert read("-") == LOG


@pytest.mark.parametrize(
    ("source", "container", "previous", "argv"),
    [
        ("container:scout", "", False, ["docker", "logs", "scout"]),
        ("pod:scout-0", "", False, ["kubectl", "logs", "scout-0"]),
        ("pod:llm/scout-0", "", False, ["kubectl", "logs", "scout-0", "--namespace", "llm"]),
        (
            "pod:llm/scout-0",
            "vllm",
            True,
            ["kubectl", "logs", "scout-0", "--namespace", "llm", "--container", "vllm", "--previous"],
        ),
    ],
)
def test_docker_and_kubectl_are_asked(
    fakes: Path, source: str, container: str, previous: bool, argv: list[str]
) -> None:
    """Both streams are read: servers log to standard error."""
    assert read(source, container=container, previous=previous) == b"out\n" + LOG
    called = json.loads(fakes.read_text())
    assert [Path(called[0]).name, *called[1:]] == argv


def test_what_docker_says_when_it_fails(fakes: Path) -> None:
    with pytest.raises(InputError, match="No such container: gone"):
        read("container:gone")


@pytest.mark.parametrize(
    "source", ["container:", "container:-v", "pod:a b", "pod:/x", "container:a;b", "pod:a/-n"]
)
def test_names_that_are_none(fakes: Path, source: str) -> None:
    with pytest.raises(InputError, match="is not a name of a"):
        read(source)
    assert not fakes.exists()


def test_options_of_pods_only(tmp_path: Path) -> None:
    for source in ("container:a", str(tmp_path / "x.log")):
        with pytest.raises(InputError, match="belong to a pod"):
            read(source, previous=True)


def test_no_docker_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="docker is not installed here"):
        read("container:a")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read(str(tmp_path / "none.log"))
    (tmp_path / "broken.gz").write_bytes(gzip.compress(LOG)[:20])
    with pytest.raises(InputError, match="cannot be read"):
        read(str(tmp_path / "broken.gz"))
    with pytest.raises(InputError, match="Is a directory"):
        read(str(tmp_path))
