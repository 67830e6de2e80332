"""How a verb's failure is said: one clear line on standard error, with --json also as JSON, and the right exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import NamedTuple

import click

from farspan.errors import FarspanError
from farspan.escape_terminal import printable

EXIT_BAD_INPUT = 2
_LONGEST_MESSAGE = 1500  # characters; longer ones quote what was given, from its beginning

# What a machine may refuse a program that is in order: said in one line, never as a traceback.
_REFUSALS = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some of your quota, or write elsewhere",
    errno.EROFS: "write elsewhere: this file system is read-only",
    errno.EACCES: "check the rights, or write elsewhere",
    errno.EPERM: "check the rights, or write elsewhere",
    errno.EFBIG: "write to a file system that takes larger files",
    errno.EIO: "check the disk",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
    errno.ENAMETOOLONG: "use a shorter name",
}


class VerbFailure(NamedTuple):
    """A failure, as it is said.

    Args:
        message: What is wrong.
        fix: What to do about it; empty when nothing can be done.
        kind: The class of the error, for programs.
        exit_code: What the command line ends with.
        verb: The verb's path, where the words of the command line are what is wrong.
    """

    message: str
    fix: str
    kind: str
    exit_code: int
    verb: str = "farspan"


def prepare_streams() -> None:
    """Let a terminal without Unicode show a question mark where a character has no code, instead of ending the verb."""
    for stream in (sys.stdout, sys.stderr):
        encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "")
        reconfigure = getattr(stream, "reconfigure", None)
        if encoding != "utf8" and reconfigure is not None:
            reconfigure(errors="replace")


def flush_output() -> None:
    """Write what is left of the output now, while a full disk can still be told.

    Raises:
        OSError: It cannot be written.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up_output()
    except OSError:
        _give_up_output()
        raise


def describe(error: BaseException) -> VerbFailure | None:
    """What to say about an error; None for one that is a bug and keeps its traceback."""
    if isinstance(error, BaseExceptionGroup):
        found = [failure for inner in error.exceptions if (failure := describe(inner)) is not None]
        return found[0] if len(found) == len(error.exceptions) else None
    if isinstance(error, FarspanError):
        return VerbFailure(
            _shortened(error.message), _shortened(error.fix), type(error).__name__, error.exit_code
        )
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "farspan"
        if isinstance(error, click.NoSuchOption) and (meant := _meant(error)):
            return VerbFailure(*meant, "InputError", EXIT_BAD_INPUT, path)
        message = (
            _shortened(" ".join(error.format_message().split()))
            .rstrip(".?")
            .replace(". Did you", "; did you")
        )
        return VerbFailure(message, f"see {path} --help", "InputError", EXIT_BAD_INPUT, path)
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        # Of a copy, the second is what is written.
        named = error.filename if error.filename2 is None else error.filename2
        where = named if named is not None else "its output"
        return VerbFailure(f"{where}: {error.strerror}", _REFUSALS[error.errno], "OSError", EXIT_BAD_INPUT)
    return None


def _meant(error: click.NoSuchOption) -> tuple[str, str] | None:
    from farspan.cli.unknown_option import suggest

    return suggest(error)


def _shortened(message: str) -> str:
    """A message that a person can read: of a very long one, its two ends."""
    if len(message) <= _LONGEST_MESSAGE:
        return message
    half = _LONGEST_MESSAGE // 2
    return f"{message[:half]} ... {message[-half:]}"


def report(failure: VerbFailure, *, as_json: bool) -> None:
    """Say a failure. A message may quote a server: control characters stay out of the terminal."""
    with contextlib.suppress(OSError):  # standard error may be on the full disk as well
        text = f"{failure.message}; {failure.fix}" if failure.fix else failure.message
        click.echo(f"{failure.verb}: {printable(text)}", err=True)
    try:
        if as_json:
            from farspan.cli.output import print_json

            document = {
                "error": failure.message,
                "fix": failure.fix,
                "kind": failure.kind,
                "exit_code": failure.exit_code,
            }
            print_json(document)
        sys.stdout.flush()
    except OSError:
        _give_up_output()


def _give_up_output() -> None:
    """Send the rest of the output nowhere: Python would try once more as it ends, and complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
