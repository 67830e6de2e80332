"""The wheel and the source package, built and installed into a bare virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PLAN = ("plan", "llama-4-scout", "--gpus", "8xH200", "--context", "10M", "--offline")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    return folder


def test_the_wheel_has_every_file_of_the_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("farspan/")}
    source = REPOSITORY / "src"
    written = {
        path.relative_to(source).as_posix()
        for path in (source / "farspan").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == written


def test_the_source_package_has_what_builds_it_and_no_logs(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/farspan/__init__.py"} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", ".ci/"))]


def test_an_installed_wheel_plans(built: Path, tmp_path: Path) -> None:
    """The installed program, outside of the repository. What it depends on is lent by this environment: installing
    that as well, from the network, is `make package`."""
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    words = ("install", "--quiet", "--no-deps", "--no-index", str(wheel))
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *words], check=True, timeout=120)
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = tmp_path / "venv" / "bin" / "farspan"
    how = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([str(program), *PLAN], **how)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("10M fits llama-4-scout-17b-16e-instruct on 8x H200")
    where = subprocess.run(  # type: ignore[call-overload]
        [str(python), "-c", "import farspan; print(farspan.__file__)"], **how
    )
    assert where.stdout.startswith(str(site))


def make(*words: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MAKEFLAGS": "", **variables}
    return subprocess.run(
        ["make", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((REPOSITORY / name).read_text())
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.10.12 || exit 1\n')
    old.chmod(0o755)
    return tmp_path


def test_an_old_python_is_said_before_anything_is_made(checkout: Path) -> None:
    done = make("demo", f"PYTHON={checkout / 'python3.10'}", folder=checkout)
    assert done.returncode != 0
    assert "farspan needs Python 3.11 or newer" in done.stderr
    assert "is Python 3.10.12" in done.stderr
    assert "make demo PYTHON=python3.12" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_environment_of_an_old_python_is_made_anew(checkout: Path) -> None:
    inside = checkout / ".venv" / "bin"
    inside.mkdir(parents=True)
    (inside / "python").symlink_to(checkout / "python3.10")
    (checkout / ".venv" / ".demo").touch()
    (checkout / ".venv" / ".dev").touch()
    new = checkout / "python3.12"  # as a Python that makes environments in no time
    new.write_text('#!/bin/sh\n[ "$1" = -m ] && echo "$@" > made && exit 1\nexit 0\n')
    new.chmod(0o755)
    done = make("demo", f"PYTHON={new}", folder=checkout)
    assert done.returncode != 0
    assert (checkout / "made").read_text() == "-m venv --clear .venv\n"
    assert not (checkout / ".venv" / ".demo").exists()
