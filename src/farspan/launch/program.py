"""Running docker and kubectl: argv in, output out, and what went wrong in one line."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from farspan.errors import LaunchError, MissingPackageError
from farspan.launch.helper_environment import SECRET_VARIABLES, helper_environment


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """What a program did."""

    status: int
    output: str
    error: str


class Program:
    """A program on PATH, run to its end.

    Args:
        name: Its name.
        missing: What to do when it is not there.
        options: Arguments that come before every other.
        secrets: Names of variables that it has no need of, besides those that farspan knows.

    Attributes:
        withheld: All variables that it does not get.
    """

    def __init__(
        self, name: str, missing: str, options: Sequence[str] = (), secrets: Collection[str] = ()
    ) -> None:
        self.withheld = frozenset((*SECRET_VARIABLES, *secrets))
        self.name = name
        self._missing = missing
        self._options = tuple(options)

    def argv(self, *arguments: str) -> tuple[str, ...]:
        """The whole command."""
        return (self.name, *self._options, *arguments)

    def run(
        self,
        *arguments: str,
        text: str = "",
        environment: Mapping[str, str] | None = None,
        limit_s: float = 60.0,
    ) -> ProgramResult:
        """Run it to its end.

        Args:
            arguments: After the options.
            text: Its standard input.
            environment: Variables added to this program's own.
            limit_s: How long it may take.

        Raises:
            MissingPackageError: It is not there.
            LaunchError: It cannot be run, or takes too long.
        """
        try:
            done = subprocess.run(
                self.argv(*arguments),
                input=text,
                capture_output=True,
                text=True,
                errors="replace",
                env=helper_environment(environment, self.withheld),
                timeout=limit_s,
                check=False,
            )
        except FileNotFoundError as error:
            raise MissingPackageError(f"{self.name} is not on PATH", self._missing) from error
        except OSError as error:
            fix = (
                "shorten the words after --, or the environment"
                if error.errno == errno.E2BIG
                else f"check that {self.name} can be run"
            )
            raise LaunchError(f"{self.name} cannot be run ({error.strerror})", fix) from error
        except subprocess.TimeoutExpired as error:
            raise LaunchError(
                f"{self.name} {arguments[0]} did not end within {limit_s:g} s", f"run {self.name} info"
            ) from error
        return ProgramResult(done.returncode, done.stdout, done.stderr)

    def run_checked(
        self,
        *arguments: str,
        text: str = "",
        environment: Mapping[str, str] | None = None,
        limit_s: float = 60.0,
    ) -> str:
        """Run it and return its output.

        Raises:
            MissingPackageError: It is not there.
            LaunchError: It failed; the message has its own words.
        """
        done = self.run(*arguments, text=text, environment=environment, limit_s=limit_s)
        if done.status:
            words = " ".join((done.error.strip() or done.output.strip()).split()) or f"status {done.status}"
            raise LaunchError(
                f"{self.name} {arguments[0]} failed: {words[:600]}", f"see {self.name} {arguments[0]} --help"
            )
        return done.output
