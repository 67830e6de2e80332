"""The exceptions farspan raises on purpose: each says what went wrong and what to do about it."""

from __future__ import annotations


class FarspanError(Exception):
    """A failure the user can act on. The command line prints it as one line and exits with code 2.

    Args:
        message: What is wrong, in one sentence without a full stop.
        fix: What to do about it, in one sentence without a full stop; empty when nothing can be done.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}; {self.fix}" if self.fix else self.message


class InputError(FarspanError):
    """A value, file or option the user gave cannot be used."""


class CheckpointError(FarspanError):
    """A folder is not a checkpoint farspan can read."""
