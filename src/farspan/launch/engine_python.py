"""Which version of an engine is meant: the one in a Python of this machine, or in an image."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from farspan.engines.ask_python import ask_python
from farspan.engines.engine import Engine
from farspan.errors import InputError, MissingPackageError, NotFoundError, install_command

# Where the installers of conda, mamba and their kin put their environments unless told otherwise.
_CONDA_ROOTS = ("miniconda3", "anaconda3", "miniforge3", "mambaforge", "micromamba", ".conda", "conda")


def find_python(text: str, environment: Mapping[str, str]) -> str:
    """The Python a user means: a program, an environment's folder, or the name of a conda environment.

    Raises:
        NotFoundError: It is none of these.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        inside = path / "bin" / "python"
        if inside.is_file():
            return str(inside)
        raise NotFoundError(f"{path} has no bin/python", "give an environment's folder, or its python")
    if "/" in text:
        if path.is_file():
            return str(path)
        raise NotFoundError(f"{path} does not exist", "name another with --python")
    found = next((folder for folder in _conda_folders(text, environment) if folder.is_file()), None)
    if found is not None:
        return str(found)
    program = shutil.which(text, path=environment.get("PATH"))
    if program is not None:
        return program
    raise NotFoundError(
        f"{text!r} is neither a program nor a conda environment",
        "give --python the path of its python: conda run -n NAME which python",
    )


def _conda_folders(name: str, environment: Mapping[str, str]) -> Iterator[Path]:
    """Where the Python of a conda environment of that name may be."""
    home = Path(environment.get("HOME", "~")).expanduser()
    for variable in ("CONDA_ENVS_PATH", "CONDA_ENVS_DIRS"):
        for folder in filter(None, environment.get(variable, "").split(":")):
            yield Path(folder) / name / "bin" / "python"
    roots = [environment.get("MAMBA_ROOT_PREFIX", "")]
    if environment.get("CONDA_EXE"):
        roots.append(str(Path(environment["CONDA_EXE"]).parent.parent))
    prefix = Path(environment.get("CONDA_PREFIX", "/nowhere"))
    roots.append(str(prefix.parent.parent if prefix.parent.name == "envs" else prefix))
    for root in [Path(root) for root in roots if root] + [home / root for root in _CONDA_ROOTS]:
        yield root / "envs" / name / "bin" / "python"
        if name == "base":
            yield root / "bin" / "python"
    try:
        listed = (home / ".conda" / "environments.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for folder in listed:
        if Path(folder).name == name:
            yield Path(folder) / "bin" / "python"


def installed_version(engine: Engine, python: str) -> str:
    """The version of the engine in a Python.

    Raises:
        NotFoundError: There is no such Python.
        MissingPackageError: It has no such engine.
    """
    code = (
        "import sys\nfrom importlib.metadata import version\n"
        "for name in sys.argv[1:]:\n    try: print(version(name)); break\n    except Exception: pass"
    )
    found = ask_python(python, code, *engine.distributions)
    if not found:
        raise MissingPackageError(
            f"{engine.name} is not installed in {python}",
            "name the Python that has it with --python, or use --runtime docker",
        )
    return found.partition("+")[0]


def tagged_version(image: str) -> str:
    """The version in an image's tag, such as `vllm/vllm-openai:v0.12.0` or `lmsysorg/sglang:v0.5.6.post2-runtime`.

    Raises:
        InputError: The tag names none.
    """
    _, colon, tag = image.partition("@")[0].rpartition("/")[2].partition(":")
    match = re.match(r"v?(\d+\.\d+\.\d+(?:\.?(?:post|rc)\d+)?)(?![\w.])", tag) if colon else None
    if match is None:
        raise InputError(
            f"the tag of --image {image} does not say which version is in it", "add --engine-version"
        )
    return match.group(1)


def check_modules(engine: Engine) -> None:
    """Refuse to start an engine that comes with farspan without the modules it needs.

    Raises:
        MissingPackageError: Some are not installed.
    """
    missing = [name for name in engine.modules if find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"the {engine.title} needs {', '.join(missing)}", install_command("builtin,report")
        )
