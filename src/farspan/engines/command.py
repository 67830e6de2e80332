"""What a command that starts an engine is made of; each engine makes its own (`engines/*/command.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from farspan.engines.plain_secrets import check_no_secret
from farspan.errors import InputError

# Where the ranks of several machines meet.
MASTER_PORT = 29501
# farspan sets these itself, under names of its own.
_TAKEN = {
    "--host": "--host",
    "--port": "--port",
    "--model": "MODEL",
    "--model-path": "MODEL",
    "--served-model-name": "--served-model-name",
    "--nnodes": "--nodes",
    "--node-rank": "--node-rank",
    "--master-addr": "--head",
    "--dist-init-addr": "--head",
    "--headless": "--node-rank",
    "--distributed-executor-backend": "--distributed",
}


@dataclass(frozen=True, slots=True)
class Nodes:
    """The machines one server runs on.

    Args:
        count: How many.
        rank: Which of them this command is for, from 0; text where something else fills it in.
        head: Address of the first; empty for one machine.
        backend: What joins vLLM's machines: "mp" (its own processes) or "ray". SGLang has one way.
    """

    count: int = 1
    rank: str = "0"
    head: str = ""
    backend: str = "mp"

    @property
    def is_head(self) -> bool:
        """Whether the API is answered here."""
        return self.rank == "0"


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the server listens and under what name."""

    host: str
    port: int
    name: str
    with_key: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """Host, port and name as all engines take them."""
        return ("--host", self.host, "--port", str(self.port), "--served-model-name", self.name)


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """What runs.

    Args:
        program: The program that starts the engine.
        arguments: The engine's arguments, the model first.
        env: Environment variables with their values.
        secrets: Names of environment variables whose values are never written anywhere.
    """

    program: tuple[str, ...]
    arguments: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """Program and arguments."""
        return self.program + self.arguments


def check_words(words: Sequence[str]) -> None:
    """Refuse what may not be passed after `--`.

    Raises:
        InputError: A flag farspan sets itself, or a secret in plain sight.
    """
    from farspan.planner.engine_flags import is_flag

    check_no_secret(words)
    for word in words:
        name = "--" + word.partition("=")[0].lstrip("-").replace("_", "-")
        if not word.startswith("--") or not is_flag(word):
            continue
        if name in _TAKEN:
            raise InputError(f"{name} is farspan's to set", f"give {_TAKEN[name]} before the --")


def split_lists(flags: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """Undo the joining of a list of values: planned flags hold `1 2 4` as one word where the user wrote three."""
    from farspan.planner.engine_flags import is_flag

    lists: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--") and is_flag(word):
            name, _, value = word.partition("=")
            name = "--" + name.lstrip("-").replace("_", "-")
            lists[name] = [value] if value else []
        elif name:
            lists[name].append(word)
    result: list[str] = []
    for index, word in enumerate(flags):
        values = lists.get(flags[index - 1], []) if index else []
        result += values if len(values) > 1 and word == " ".join(values) else [word]
    return tuple(result)
