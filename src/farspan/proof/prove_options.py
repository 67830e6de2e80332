"""What to prove: the engines, and what each of them is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farspan.errors import FarspanError
from farspan.launch.runtime import Runtime
from farspan.launch.server_records import StateFolder
from farspan.measurement.options import BenchOptions
from farspan.reports.write_report import DEFAULT_FORMATS, Format


@dataclass(frozen=True, slots=True)
class ProvenEngine:
    """One engine to prove, or one server that is there already.

    Args:
        name: Its name in the campaign.
        runtime: What to start; None where there is a server already, or nothing can be started.
        url: The server that is there already.
        api_key: Its key, where farspan knows it; never stored.
        engine, version: What cannot be started, where nothing can.
        refused: Why it cannot be started, found before anything was; None when it can.
        adapt: Adds what is known of a server that is there to the options of its measurement.
        find_log: Copies the log of a server that is there to a file; says why it could not.
    """

    name: str
    runtime: Runtime | None = None
    url: str = ""
    api_key: str | None = field(default=None, repr=False)
    engine: str = ""
    version: str = ""
    refused: FarspanError | None = None
    adapt: Callable[[BenchOptions], BenchOptions] = lambda options: options
    find_log: Callable[[Path], str] = lambda _: "farspan did not start it"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProveOptions:
    """What to prove.

    Args:
        folder: The campaign's folder.
        model: The model, for the report's heading.
        engines: The engines, in the order to go through.
        contexts: Prompt lengths in tokens.
        depths: Where the needle goes.
        repeats: Requests at each context and depth.
        warmup: Requests before them, which are kept but do not count: kernels are compiled for the first.
        output_tokens: Tokens of an answer.
        concurrency: After the requests that are alone, so many at once; 0 for none.
        load_contexts: Prompt lengths of those.
        corpus: The prompts' text: a file, JSON lines, or a folder of such; built-in text when None.
        corpus_field: Of JSON records, the field that holds the text; "text" when None.
        tokenizer: The servers' tokenizer; None finds it by the record or what the server names.
        seed: Decides the prompts, the same for every engine; None takes a fresh one, or the campaign's own.
        ready_limit_s: Longest start of a server; None for three times the planned one and ten minutes.
        retry_failed: Whether engines that failed, and requests that did, are tried again.
        metrics_s: Seconds between readings of the engine's metrics.
        api_key: The key of a server that is there already; never stored.
        formats: What the report is written as.
        state: Where the records of servers are; the user's own folder when None.
    """

    folder: Path
    model: str
    engines: tuple[ProvenEngine, ...]
    contexts: tuple[int, ...]
    depths: tuple[float, ...] = (0.1, 0.5, 0.9)
    repeats: int = 1
    warmup: int = 0
    output_tokens: int = 200
    concurrency: int = 0
    load_contexts: tuple[int, ...] = ()
    corpus: str | None = None
    corpus_field: str | None = None
    tokenizer: Path | str | None = None
    seed: int | None = None
    ready_limit_s: float | None = None
    retry_failed: bool = False
    metrics_s: float = 1.0
    api_key: str | None = field(default=None, repr=False)
    formats: tuple[Format, ...] = DEFAULT_FORMATS
    state: StateFolder | None = None

    def settings(self) -> dict[str, Any]:
        """What a campaign can only be gone on with under the same."""
        return {
            "model": self.model,
            "contexts": self.contexts,
            "depths": self.depths,
            "repeats": self.repeats,
            "warmup": self.warmup,
            "output_tokens": self.output_tokens,
            "concurrency": self.concurrency,
            "load_contexts": self.load_contexts,
            **({"corpus": self.corpus, "corpus_field": self.corpus_field} if self.corpus else {}),
        }
