"""Building prompts and writing them to files, with what it took: the function behind `farspan prompt`."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from farspan.errors import InputError
from farspan.prompts.cache import replace_file
from farspan.prompts.corpus import corpus_warnings, open_corpus
from farspan.prompts.exact_builder import iter_prompts
from farspan.prompts.load_tokenizer import load_tokenizer
from farspan.prompts.prompt import Prompt
from farspan.prompts.verify import verify_prompt


class PromptFormat(StrEnum):
    """The format of the written prompt."""

    TEXT = "text"
    IDS = "ids"
    IDS_JSON = "ids-json"


_SUFFIXES = {PromptFormat.TEXT: ".txt", PromptFormat.IDS: ".npy", PromptFormat.IDS_JSON: ".json"}


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """The prompt to build and the place to write it to.

    Attributes:
        tokens: Exact length as the server counts, BOS and template included.
        tokenizer: Folder, file or URL.
        corpus: File or folder of text; None for built-in text.
        corpus_field: Of JSON records, the field that holds the text; "text" when None.
        task: One of `farspan.prompts.tasks.TASKS`.
        depth: Where the needle lies, 0 to 1.
        seed: The first prompt's; others count up.
        chat: The text is the one user message of a chat.
        output_tokens: How long the reply may be.
        count: How many things to plant.
        format: Text or token ids; ids are a numpy file, or JSON to a stream and to a file that ends in `.json`.
        output: A file; a folder when several are built; None to write to `stream`.
        number: How many prompts.
        verify: Encode each prompt again, as a whole.
        verify_with: Another tokenizer that must agree: folder, file or URL.
        api_key: The key of a server that is the tokenizer; `verify_with` gets it where that is the same server.
    """

    tokens: int
    tokenizer: str
    corpus: str | None = None
    corpus_field: str | None = None
    task: str = "needle"
    depth: float = 0.5
    seed: int = 0
    chat: bool = False
    output_tokens: int | None = None
    count: int | None = None
    format: PromptFormat = PromptFormat.TEXT
    output: Path | None = None
    number: int = 1
    verify: bool = False
    verify_with: str | None = None
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class WrittenPrompt:
    """A prompt that was written, and what it took.

    Attributes:
        tokens: As the server counts them.
        seconds: From the call, or from the previous prompt, until it was written; verification, which comes before
            anything is written, not included.
        peak_rss_mib: The process's largest resident memory so far, MiB, mapped pages of the token index included.
        answer: What a right reply says.
        needle_positions: Index of the first token of everything planted.
        output_tokens: Tokens a right reply needs, at most.
        task: What is asked.
        depth: As asked for.
        seed: As asked for.
        chat: As asked for.
        format: Text or token ids.
        path: The file; None for a stream.
        corpus: Where the text came from.
        tokenizer: Where the tokenizer came from.
        backend: What encoded: tiktoken, tokenizers or server.
        backend_reason: Why.
        additive: Why token counts add up at cuts.
        verified_with: The tokenizers that encoded the whole again and agreed.
        verify_seconds: What that took.
        corpus_passes: How often the prompt goes through its corpus: above 1 the text is repeated; 0 where it does not
            end, or is longer than the prompt.
        warnings: What limits the text's worth: a corpus that is repeated, files that were left out.
    """

    tokens: int
    seconds: float
    peak_rss_mib: float
    answer: str
    needle_positions: tuple[int, ...]
    output_tokens: int
    task: str
    depth: float
    seed: int
    chat: bool
    format: str
    path: str | None
    corpus: str
    tokenizer: str
    backend: str
    backend_reason: str
    additive: str
    verified_with: tuple[str, ...]
    verify_seconds: float
    corpus_passes: float = 0.0
    warnings: tuple[str, ...] = ()


def write_prompts(
    request: PromptRequest, stream: IO[bytes] | None = None, *, since: float | None = None
) -> Iterator[WrittenPrompt]:
    """Build prompts one after the other, write each, and say what it took.

    Args:
        request: What to build.
        stream: Where to write when the request names no file.
        since: When the work began, by `time.perf_counter`; now when None.

    Raises:
        InputError: Something in the request cannot be used.
        InexactPromptError: A prompt did not verify.
    """
    start = time.perf_counter() if since is None else since
    tokenizer = load_tokenizer(request.tokenizer, api_key=request.api_key)
    same = urlsplit(request.verify_with or "")[:2] == urlsplit(request.tokenizer)[:2]
    key = request.api_key if same else None
    others = [load_tokenizer(request.verify_with, api_key=key)] if request.verify_with else []
    checks = [tokenizer, *others] if request.verify else others
    corpus = open_corpus(request.corpus, request.corpus_field)
    prompts = iter_prompts(
        tokenizer,
        request.number,
        seed=request.seed,
        tokens=request.tokens,
        task=request.task,
        depth=request.depth,
        chat=request.chat,
        output_tokens=request.output_tokens,
        count=request.count,
        corpus=corpus,
    )
    for prompt in prompts:
        built = time.perf_counter()
        for check in checks:
            verify_prompt(prompt, check)
        verify_seconds = time.perf_counter() - built
        path = _write(prompt, request, stream)
        yield WrittenPrompt(
            tokens=sum(part.tokens for part in prompt.parts),
            seconds=time.perf_counter() - start - verify_seconds,
            peak_rss_mib=peak_rss_mib(),
            answer=prompt.answer,
            needle_positions=prompt.needle_positions,
            output_tokens=prompt.output_tokens,
            task=prompt.task,
            depth=prompt.depth,
            seed=prompt.seed,
            chat=prompt.chat,
            format=request.format.value,
            path=None if path is None else str(path),
            corpus="recall words" if tokenizer.recall else corpus.name,
            tokenizer=tokenizer.name,
            backend=tokenizer.backend,
            backend_reason=tokenizer.reason,
            additive=tokenizer.proof.value,
            verified_with=tuple(check.name for check in checks),
            verify_seconds=verify_seconds if checks else 0.0,
            corpus_passes=round(prompt.corpus_passes, 3),
            warnings=corpus_warnings(corpus, prompt.corpus_passes),
        )
        start = time.perf_counter()


def process_start() -> float:
    """Return when this process started, by `time.perf_counter`; now, where the system does not tell."""
    now = time.perf_counter()
    status = Path("/proc/self/stat")
    if not status.exists():
        return now
    # Field 22, counted after the command's name, which may hold spaces: clock ticks since boot.
    ticks = int(status.read_text().rpartition(")")[2].split()[19])
    return now - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def peak_rss_mib() -> float:
    """Return the largest resident memory this process has had, MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: across exec it keeps the peak of the process that started this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _write(prompt: Prompt, request: PromptRequest, stream: IO[bytes] | None) -> Path | None:
    path = _path_of(prompt, request)
    if path is None and stream is None:
        raise InputError("there is nowhere to write the prompt to", "name an output file")
    try:
        if path is None:
            assert stream is not None
            _write_to(stream, prompt, request)
        elif _is_special(path):
            _write_to(path, prompt, request)
        else:
            replace_file(path, lambda draft: _write_to(draft, prompt, request))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(
            f"{path or 'standard output'} cannot be written ({error.strerror})",
            "free some space, or choose another output",
        ) from error
    return path


def _path_of(prompt: Prompt, request: PromptRequest) -> Path | None:
    if request.output is None or request.number == 1:
        return request.output
    if request.output.is_file():
        raise InputError(f"{request.output} is a file", "name a folder for several prompts")
    return request.output / f"prompt-{prompt.seed:06d}{_SUFFIXES[request.format]}"


def _write_to(target: Path | IO[bytes], prompt: Prompt, request: PromptRequest) -> None:
    if request.format is PromptFormat.TEXT:
        prompt.write_text(target)
    else:
        prompt.write_ids(target, as_json=request.format is PromptFormat.IDS_JSON)


def _is_special(path: Path) -> bool:
    """Return whether a path is a pipe, a device or the like, which can only be written to as it is."""
    return Path("/dev") in path.absolute().parents or (path.exists() and not path.is_file())
