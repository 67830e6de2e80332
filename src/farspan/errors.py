"""The exceptions farspan raises on purpose: each says what went wrong and what to do about it.

    FarspanError                  exit code
      InputError                  2   a value, file or option the user gave cannot be used
        NotFoundError             2   there is nothing of that name: a model, GPU, file, server, run
        UnsupportedError          2   it is understood, and farspan or this version of the engine does not do it
        MissingPackageError       2   a Python package or a program is not installed
        CheckpointError           2   a folder is not a checkpoint farspan can read
      NetworkError                2   a server, a hub or a registry does not answer, or answers nonsense
      DoesNotFitError             3   the memory is too small for what was asked
      LaunchError                 2   a server cannot be started here, or does not stop
        StartError                1   a server was started and did not become ready (`farspan.launch.start_watch`)
      KVError                     1   the elastic KV cache cannot do what it was asked; its kinds are in `farspan.kv`
      DefectError                 70  farspan contradicts itself: a bug of ours

Each package keeps further ones under these. `exit_code` is what the command line ends with.
"""

from __future__ import annotations

from typing import ClassVar


class FarspanError(Exception):
    """A failure the user can act on. The command line prints it as one line and exits with `exit_code`.

    Args:
        message: What is wrong, in one sentence without a full stop.
        fix: What to do about it, in one sentence without a full stop; empty when nothing can be done.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}; {self.fix}" if self.fix else self.message


class InputError(FarspanError):
    """A value, file or option the user gave cannot be used."""


class NotFoundError(InputError):
    """There is nothing of the name the user gave: no such model, GPU, file, server or run."""


class UnsupportedError(InputError):
    """What the user asked is understood, and farspan or this version of the engine does not do it."""


class MissingPackageError(InputError):
    """A Python package or a program that this needs is not installed; the fix says how to get it."""


class CheckpointError(InputError):
    """A folder is not a checkpoint farspan can read."""


class NetworkError(FarspanError):
    """A server, a hub or a registry does not answer, or answers what cannot be read."""


class DoesNotFitError(FarspanError):
    """The memory is too small for what was asked."""

    exit_code = 3


class LaunchError(FarspanError):
    """A server cannot be started here, died, or does not stop.

    Args:
        message: What happened.
        fix: What to do about it.
        tail: The last lines of the server's log.
    """

    def __init__(self, message: str, fix: str = "", tail: tuple[str, ...] = ()) -> None:
        super().__init__(message, fix)
        self.tail = tail


class KVError(FarspanError):
    """The elastic KV cache cannot do what it was asked."""

    exit_code = 1


class DefectError(FarspanError):
    """Farspan contradicts itself: a bug to report, never the user's doing."""

    exit_code = 70

    def __init__(self, message: str) -> None:
        super().__init__(message, "this is a defect of farspan: please report it with the command you ran")


def install_command(extras: str) -> str:
    """The command that adds optional packages to the farspan that runs: from where it was installed from, a checkout or
    a file, else by name."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution
    from pathlib import Path
    from urllib.parse import unquote, urlsplit

    try:
        origin = json.loads(distribution("farspan").read_text("direct_url.json") or "{}")
        url = urlsplit(str(origin.get("url", "")))
    except (PackageNotFoundError, ValueError, AttributeError):
        url = urlsplit("")
    path = unquote(url.path) if url.scheme == "file" else ""
    return f"pip install '{path if path and Path(path).exists() else 'farspan'}[{extras}]'"
