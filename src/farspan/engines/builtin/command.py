"""The command that starts the built-in engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farspan.engines.command import EngineCommand, Listen, Nodes
from farspan.errors import UnsupportedError


def builtin_command(
    model: str,
    flags: Sequence[str],
    env: Mapping[str, str],
    listen: Listen,
    nodes: Nodes,
    python: str,
    key_variable: str,
) -> EngineCommand:
    """The command of a server; see `farspan.engines.engine.Engine.command`.

    Raises:
        UnsupportedError: There are several machines.
    """
    if nodes.count > 1:
        raise UnsupportedError(
            "the built-in engine runs on one machine", "drop --nodes, or use vLLM or SGLang"
        )
    secrets = (key_variable,) if listen.with_key else ()
    program = (python or "python3", "-m", "farspan.builtin")
    return EngineCommand(program, (model, *flags, *listen.flags), env, secrets)
