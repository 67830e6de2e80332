"""Request bodies, made and put on disk before the load starts, so that nothing is tokenized or encoded
under load.

A body of 10M token ids is about 50 MB: on disk, fifty of them cost no memory, and sending one maps its pages.
"""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from farspan.bench.schedule import Job
from farspan.bench.wire import Api, encode_body
from farspan.errors import InputError

BODIES_FOLDER = "bodies"


class PromptAs(StrEnum):
    """How the completions API gets its prompt."""

    IDS = "ids"
    TEXT = "text"


class AnyPrompt(Protocol):
    """What a prompt must offer to be sent and checked; `farspan.prompts.build.Prompt` does."""

    @property
    def token_ids(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """The prompt as the server counts it, int32, one dimension."""

    @property
    def text(self) -> str:
        """The prompt as text; for a chat the user's message alone."""

    @property
    def answer(self) -> str:
        """What was planted."""

    def score(self, reply: str) -> float:
        """Return how much of the answer a reply brings back, 0 to 1."""


PromptMaker = Callable[[Job], AnyPrompt]


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request ready to send: its body lies in a file.

    Args:
        job: What it is.
        path: The encoded body.
        answer: What was planted.
        score: Scores a reply, 0 to 1.
    """

    job: Job
    path: Path
    answer: str
    score: Callable[[str], float]

    def map_body(self) -> memoryview:
        """Map the body into memory; its pages are read as they are sent."""
        with self.path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def discard(self) -> None:
        """Remove the body from disk; a mapping already made stays good."""
        self.path.unlink(missing_ok=True)


class BodyFolder:
    """The folder inside a run folder where bodies wait; cleared on entry and on exit."""

    def __init__(self, run_folder: Path) -> None:
        self.path = run_folder / BODIES_FOLDER

    def __enter__(self) -> BodyFolder:
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def prepare_request(
    job: Job,
    prompt: AnyPrompt,
    folder: Path,
    *,
    api: Api,
    prompt_as: PromptAs,
    model: str,
    ignore_eos: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> PreparedRequest:
    """Encode one request and write its body.

    Raises:
        InputError: The body cannot be written.
    """
    as_text = api is Api.CHAT or prompt_as is PromptAs.TEXT
    body = encode_body(
        api,
        model=model,
        prompt=prompt.text if as_text else prompt.token_ids,
        output_tokens=job.output_tokens,
        ignore_eos=ignore_eos,
        extra=extra,
    )
    path = folder / f"{job.context}-{job.depth!r}-{job.repeat}.json"
    try:
        path.write_bytes(body)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error})", "free some space, or pass another --run"
        ) from error
    return PreparedRequest(job, path, prompt.answer, prompt.score)
