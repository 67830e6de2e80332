"""Build prompts of exactly N tokens."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from farspan.errors import InputError
from farspan.launch.server_records import StateFolder
from farspan.prompts.write_prompts import PromptFormat, PromptRequest, WrittenPrompt, write_prompts
from farspan.sizes import parse_tokens


@dataclass(frozen=True, slots=True)
class WrittenPrompts:
    """Prompts that were built.

    Args:
        prompts: What each one holds and what it took.
        data: The prompt itself, where neither a file nor a stream was named; else empty.
    """

    prompts: tuple[WrittenPrompt, ...]
    data: bytes = b""

    def to_json(self) -> list[dict[str, Any]]:
        """One object a prompt; the verb prints each on a line of its own, as soon as it is written."""
        return [asdict(prompt) for prompt in self.prompts]


def prompt(
    tokens: str | int,
    tokenizer: str | Path,
    *,
    output: str | Path | None = None,
    corpus: str | Path | None = None,
    corpus_field: str | None = None,
    task: str = "needle",
    depth: float = 0.5,
    count: int | None = None,
    seed: int = 0,
    chat: bool = False,
    output_tokens: str | int | None = None,
    format: str | PromptFormat = PromptFormat.TEXT,
    number: int = 1,
    verify: bool = False,
    verify_with: str | None = None,
    api_key: str | None = None,
    stream: IO[bytes] | None = None,
    since: float | None = None,
    on_written: Callable[[WrittenPrompt], None] | None = None,
) -> WrittenPrompts:
    """Build prompts of exactly `tokens` tokens with something to find in them.

    Args:
        tokens: Exact length as the server counts: a number, or text such as "10M".
        tokenizer: Hugging Face folder, hub id, catalog name, tokenizer.json, tokenizer.model, the URL of a server with
            /tokenize, or the name of a server that farspan has started.
        output: A file; a folder when several are built; None to return the prompt.
        corpus: Text file, JSON lines, or a folder of such; built-in text when None.
        corpus_field: Of JSON records, the field that holds the text, `a.b` for one inside another; "text" when None.
        task: One of `farspan.prompts.tasks.TASKS`.
        depth: Where the needle lies, 0 to 1.
        count: How many things to plant, or hops of a chain.
        seed: Decides everything random; with several prompts the first one's.
        chat: Whether the text is the user message of a chat; the template is counted.
        output_tokens: How long the reply may be.
        format: "text", "ids" (numpy) or "ids-json".
        number: How many prompts.
        verify: Whether each prompt is encoded again, as a whole, and compared.
        verify_with: Another tokenizer that must agree.
        api_key: The key of a server that is the tokenizer.
        stream: Where to write instead of a file.
        since: When the work began, by `time.perf_counter`; now when None.
        on_written: Called after each prompt.

    Raises:
        InputError: Something cannot be used.
        InexactPromptError: A prompt did not verify.
    """
    if number > 1 and output is None:
        raise InputError("several prompts need a folder", "name one with -o")
    request = PromptRequest(
        tokens=parse_tokens(str(tokens)),
        tokenizer=_find_tokenizer(str(tokenizer)),
        corpus=None if corpus is None else str(corpus),
        corpus_field=corpus_field,
        task=task,
        depth=depth,
        seed=seed,
        chat=chat,
        output_tokens=None if output_tokens is None else parse_tokens(str(output_tokens)),
        count=count,
        format=PromptFormat(format),
        output=None if output is None else Path(output),
        number=number,
        verify=verify,
        verify_with=None if verify_with is None else _find_tokenizer(verify_with),
        api_key=api_key,
    )
    kept = io.BytesIO()
    written = []
    for one in write_prompts(request, stream or kept, since=since):
        written.append(one)
        if on_written is not None:
            on_written(one)
    return WrittenPrompts(tuple(written), kept.getvalue())


def _find_tokenizer(given: str) -> str:
    """What a server's name stands for: the folder of its tokenizer, or its address; anything else as it is."""
    if Path(given).expanduser().exists() or any(mark in given for mark in ":/."):
        return given
    record = next((record for record in StateFolder().records() if record.name == given), None)
    return given if record is None else record.tokenizer or record.url or given
