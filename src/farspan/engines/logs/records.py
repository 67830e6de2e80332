"""What a log says, as typed events: one NamedTuple a kind of line.

Tuples and not dataclasses: a long log has millions of them, and a tuple is made in a third of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

UNKNOWN_LINE = 0


class StartPhase(StrEnum):
    """The steps of a server's life, in the order a start goes through them."""

    CONFIG = "config"
    ENGINE = "engine"
    DISTRIBUTED = "distributed"
    WEIGHTS = "weights"
    COMPILE = "compile"
    PROFILE = "profile"
    KV = "kv"
    GRAPHS = "graphs"
    READY = "ready"
    SHUTDOWN = "shutdown"
    DIED = "died"


STARTUP = (
    StartPhase.CONFIG,
    StartPhase.ENGINE,
    StartPhase.DISTRIBUTED,
    StartPhase.WEIGHTS,
    StartPhase.COMPILE,
    StartPhase.PROFILE,
    StartPhase.KV,
    StartPhase.GRAPHS,
    StartPhase.READY,
)


class Where(NamedTuple):
    """Where a line stands.

    Args:
        line: Its number in the stream, from 1.
        at: Seconds since the epoch as the log's own clock has it (read as UTC), None without a timestamp.
        process: "APIServer", "EngineCore", "Worker_TP0", "TP0" ...; empty when the line does not say.
    """

    line: int = UNKNOWN_LINE
    at: float | None = None
    process: str = ""


class Progress(NamedTuple):
    """A startup phase begins, advances or ends.

    Args:
        where: Place in the log.
        phase: Which.
        done: Whether the phase is over with this line.
        percent: Progress in percent, None when the line does not say.
        seconds: How long it took, or has taken, by the engine's own figure.
        gib: Memory it took, or has loaded so far, in GiB on one GPU, by the engine's own figure.
        text: The message.
    """

    where: Where
    phase: StartPhase
    done: bool = False
    percent: float | None = None
    seconds: float | None = None
    gib: float | None = None
    text: str = ""


class Arguments(NamedTuple):
    """The engine's arguments as it printed them: names with underscores, values as Python reads them.

    `version_like` is the oldest planned version that has such arguments; empty when they do not tell.
    """

    where: Where
    engine: str
    values: Mapping[str, object]
    version_like: str = ""


class EngineVersion(NamedTuple):
    """The engine named itself. `version` is empty when only the engine is certain."""

    where: Where
    engine: str
    version: str = ""


class Figure(NamedTuple):
    """One capacity figure the engine printed; `name` is a key of `farspan.diagnosis.capacity.PLAIN`."""

    where: Where
    name: str
    value: float


class Throughput(NamedTuple):
    """vLLM's periodic line. Rates are as logged; `usage` and `hit_rate` are fractions."""

    where: Where
    prompt_tps: float
    generation_tps: float
    running: int
    waiting: int
    usage: float
    engine: str = ""
    preemptions: int = 0
    hit_rate: float | None = None


class WorkBegins(NamedTuple):
    """A line that a request causes as it comes in: what follows until its first answer token is prefill."""

    where: Where


class Batch(NamedTuple):
    """SGLang's line for a prefill or decode batch. `usage` is the larger of the pools', a fraction."""

    where: Where
    prefill: bool
    new_tokens: int
    cached_tokens: int
    running: int
    queued: int
    usage: float
    generation_tps: float = 0.0


class Access(NamedTuple):
    """An HTTP answer that was no plain success."""

    where: Where
    address: str
    request: str
    status: int


class Traffic(NamedTuple):
    """HTTP answers with status 200 since the last Traffic event: counted, not listed."""

    where: Where
    answered: int


class LogMessage(NamedTuple):
    """A line that may matter and is none of the above.

    Args:
        where: Place in the log.
        level: "INFO", "WARNING", "ERROR" ...; empty when the line has none.
        text: The message without prefixes, colours and timestamps, cut after 16,000 characters.
        raw: The line as it stands, cut after 1,000 characters.
        rules: The numbers of the rules and kinds of noise whose words the line has.
        times: How many lines of this shape this one stands for.
    """

    where: Where
    level: str
    text: str
    raw: str
    rules: tuple[int, ...] = ()
    times: int = 1


Event = (
    Progress
    | Arguments
    | EngineVersion
    | Figure
    | Throughput
    | WorkBegins
    | Batch
    | Access
    | Traffic
    | LogMessage
)
