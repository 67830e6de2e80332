"""Prompts and request bodies, made and put on disk before the load starts, so that nothing is tokenized or encoded
under load.

A prompt is written once, as JSON, under the hash of its bytes; every request that sends it, on whichever engine,
sends that file with a few bytes of its own around it. Fifty prompts of 10M tokens take 3 GB of disk and no memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from farspan.errors import InputError
from farspan.measurement.http.request_body import FilePiece, RequestBody
from farspan.measurement.http.wire import Api, PromptAs, frame_body
from farspan.measurement.runs.job import Job
from farspan.prompts.turn import TurnPrompt

PROMPTS_FOLDER = "prompts"
_OURS = re.compile(r"[0-9a-f]{32}\.json|\.draft-.*")

__all__ = [
    "AnyPrompt",
    "PreparedRequest",
    "PromptAs",
    "PromptMaker",
    "PromptStore",
    "RequestBody",
    "StoredPrompt",
]


class AnyPrompt(Protocol):
    """What a prompt must offer to be sent and checked; `farspan.prompts.exact_builder.Prompt` does."""

    @property
    def answer(self) -> str:
        """What was planted."""

    def iter_ids_json(self) -> Iterator[bytes]:
        """Yield the prompt as the server counts it, a JSON array of token ids, in pieces."""

    def iter_json_string(self) -> Iterator[bytes]:
        """Yield the prompt as text, a JSON string, in pieces; for a chat the user's message alone."""

    def score(self, reply: str) -> float:
        """Return how much of the answer a reply brings back, 0 to 1."""


PromptMaker = Callable[[Job], AnyPrompt]


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """A prompt on disk, ready for any engine.

    Args:
        job: What it is for.
        prompt_id: The hash of its bytes.
        file: Its JSON.
        prompt_as: Whether that is an array of ids or a string.
        answer: What was planted.
        score: Scores a reply, 0 to 1.
        turn: What it adds to a conversation, whose file then holds ids without the array's brackets; else None.
    """

    job: Job
    prompt_id: str
    file: FilePiece
    prompt_as: PromptAs
    answer: str
    score: Callable[[str], float]
    turn: TurnPrompt | None = None


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request ready to send."""

    prompt: StoredPrompt
    body: RequestBody

    @property
    def job(self) -> Job:
        """What it is."""
        return self.prompt.job


class PromptStore:
    """A folder of prompts, each once. Use as a context manager.

    Args:
        folder: Made when it is missing.
        keep: Leave the prompts there at the end; otherwise they go, with those that an earlier run which was killed
            left there.
    """

    def __init__(self, folder: Path, *, keep: bool) -> None:
        self.folder = folder
        self._keep = keep
        self._prompts: dict[tuple[Job, PromptAs, int], StoredPrompt] = {}

    def __enter__(self) -> PromptStore:
        try:
            if not self._keep:
                self._clear()
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be made ({error})", "pass another --prompts") from error
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._keep:
            self._clear()

    def _clear(self) -> None:
        """Remove what a store writes and nothing else; the folder too when that leaves it empty."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if _OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def add(
        self, job: Job, make_prompt: PromptMaker, prompt_as: PromptAs, times_sent: int = 0
    ) -> StoredPrompt:
        """Build a job's prompt and write it, unless this store has done so before.

        Args:
            job: What the prompt is for.
            make_prompt: Builds it.
            prompt_as: The form to write.
            times_sent: How often the request has left before: the server may have kept what it computed of that prompt,
                so it gets one that begins otherwise.

        Raises:
            InputError: The prompt cannot be built or written.
        """
        known = self._prompts.get((job, prompt_as, times_sent))
        if known is not None:
            return known
        prompt = make_prompt(job.with_fresh_seed(times_sent))
        pieces = prompt.iter_ids_json() if prompt_as is PromptAs.IDS else prompt.iter_json_string()
        try:
            prompt_id, file = self._write(pieces)
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be written ({error})",
                "free some space, or pass --prompts with a folder on another disk",
            ) from error
        turn = prompt if isinstance(prompt, TurnPrompt) else None
        stored = StoredPrompt(job, prompt_id, file, prompt_as, prompt.answer, prompt.score, turn)
        self._prompts[job, prompt_as, times_sent] = stored
        return stored

    def _write(self, pieces: Iterator[bytes]) -> tuple[str, FilePiece]:
        digest = hashlib.blake2b(digest_size=16)
        size = 0
        handle, draft = tempfile.mkstemp(prefix=".draft-", dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    size += file.write(piece)
            prompt_id = digest.hexdigest()
            path = self.folder / f"{prompt_id}.json"
            Path(draft).replace(path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        return prompt_id, FilePiece(path, size)


def prepare_request(
    prompt: StoredPrompt,
    *,
    api: Api,
    model: str,
    ignore_eos: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> PreparedRequest:
    """Put a request's own bytes around its prompt."""
    before, after = frame_body(
        api,
        model=model,
        prompt_as=prompt.prompt_as,
        output_tokens=prompt.job.output_tokens,
        ignore_eos=ignore_eos,
        extra=extra,
    )
    if prompt.turn is not None:
        before, after = before + b"[", b"]" + after
    return PreparedRequest(prompt, RequestBody((before, prompt.file, after)))


def choose_form(api: Api, wanted: PromptAs) -> PromptAs:
    """Return the form a prompt is sent in: a chat always takes text."""
    return PromptAs.TEXT if api is Api.CHAT else wanted
