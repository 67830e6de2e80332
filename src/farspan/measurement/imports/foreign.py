"""What any tool's result file comes down to: a run, and its requests one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ForeignRequest:
    """One request as another tool recorded it; None where it does not say. Times are seconds.

    Args:
        asked_tokens: Prompt tokens the tool was told to send.
        asked_output: Output tokens the tool asked for.
        prompt_tokens: Prompt tokens counted, by the server where it reports usage.
        started_at: Wall clock at the start, seconds since the epoch.
        gaps_s: Every gap between two events with tokens.
        error: Why it failed; empty when it did not.
        http_status: When the tool keeps it.
        prompt: What was sent, to recognise the same prompt in another run; never stored.
    """

    asked_tokens: int | None = None
    asked_output: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    started_at: float | None = None
    ttft_s: float | None = None
    gaps_s: tuple[float, ...] | None = None
    e2e_s: float | None = None
    text: str = ""
    error: str = ""
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class ForeignRun:
    """One benchmark out of a tool's result file.

    Args:
        tool: The tool's name.
        tool_version: Its version, when the file says.
        model: The model's name in requests.
        url: The server's address; empty when the file does not say.
        engine, engine_version: What was served from, when the file says.
        api: The API used, in the tool's words.
        concurrency: The most requests under way at a time.
        arguments: What else the file says was asked for.
        totals: The tool's own figures, under its own names.
        requests: The requests in the file's order; read as they are asked for.
        left_out: How many requests the tool itself broke off, which are not among `requests`.
    """

    tool: str
    model: str
    tool_version: str | None = None
    url: str = ""
    engine: str | None = None
    engine_version: str | None = None
    api: str = "completions"
    concurrency: int | None = None
    arguments: dict[str, object] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    requests: Iterator[ForeignRequest] = field(default_factory=lambda: iter(()))
    left_out: int = 0
