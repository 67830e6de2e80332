"""What a bench does, step by step, for whoever shows it."""

from __future__ import annotations

from pathlib import Path

from farspan.measurement.http.target import ServerInfo
from farspan.measurement.runs.job import Job
from farspan.measurement.runs.result import Result


class Watcher:
    """Its methods are called at every step of a bench; these do nothing. They run on the event loop: be quick."""

    def step(self, line: str) -> None:
        """Something begins or has happened, in one line."""

    def waiting(self, seconds: float, line: str) -> None:
        """A server is starting, for so many seconds; `line` is the last thing it printed."""

    def opened(self, folder: Path, server: ServerInfo) -> None:
        """The server has answered and the run folder is open."""

    def preparing(self, job: Job, number: int, total: int) -> None:
        """The prompt of request `number` (from 0) of `total` is being built."""

    def sending(self, total: int, skipped: int) -> None:
        """All prompts are built and `total` requests will be sent; `skipped` are there from earlier."""

    def started(self, job: Job) -> None:
        """A request leaves."""

    def first_token(self, job: Job, ttft_s: float) -> None:
        """A request's first token has arrived."""

    def progress(self, line: str) -> None:
        """The engine's state, about once a second while requests are under way; empty when it is not known."""

    def given_up(self, job: Job) -> None:
        """The time for the whole run is over before this request was; nothing is kept of it."""

    def finished(self, result: Result) -> None:
        """A request is over and its result is on disk."""
