"""Whether a Python that is to start SGLang has farspan's plug-in."""

from __future__ import annotations

from farspan.engines.ask_python import ask_python
from farspan.errors import MissingPackageError

# Not by importing it, which would import torch: by what is installed, as SGLang finds it.
_CODE = (
    "from importlib.metadata import entry_points\n"
    "print('farspan' in entry_points(group='sglang.srt.plugins').names)"
)


def check_plugin(python: str) -> None:
    """Make sure that SGLang started by this Python finds the plug-in.

    Raises:
        MissingPackageError: It does not.
        NotFoundError: There is no such Python.
    """
    if ask_python(python, _CODE) != "True":
        raise MissingPackageError(
            f"--elastic needs farspan in the Python of SGLang, and {python} has none",
            f"run {python} -m pip install 'farspan[sglang]'",
        )
