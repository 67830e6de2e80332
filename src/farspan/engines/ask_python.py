"""Asks a Python that is to start an engine what it has."""

from __future__ import annotations

import subprocess

from farspan.errors import NotFoundError


def ask_python(python: str, code: str, *arguments: str) -> str:
    """Return what a program in a Python prints, blanks around it left out.

    Args:
        python: The Python.
        code: The program.
        arguments: What it finds in `sys.argv`.

    Raises:
        NotFoundError: There is no such Python.
    """
    try:
        done = subprocess.run(
            [python, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        raise NotFoundError(
            f"{python} cannot be run ({error.strerror})", "name another with --python"
        ) from error
    return done.stdout.strip()
