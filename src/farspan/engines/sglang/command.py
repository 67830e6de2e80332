"""The command that starts SGLang: in an image, from a Python of this machine, on one machine or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from farspan.engines.command import MASTER_PORT, EngineCommand, Listen, Nodes

# SGLang's image runs whatever it is given, and its runtime image has no `sglang` program (sgl-project/sglang#26897).
_IMAGE_PROGRAM = ("python3", "-m", "sglang.launch_server")
# Both are off by default: /metrics, and cached tokens in an answer's usage, by which a run is known to be cold.
_PROOF_FLAGS = ("--enable-metrics", "--enable-cache-report")


def sglang_command(
    model: str,
    flags: Sequence[str],
    env: Mapping[str, str],
    listen: Listen,
    nodes: Nodes,
    python: str,
    key_variable: str,
) -> EngineCommand:
    """The command of one server, or of one machine of it; see `farspan.engines.engine.Engine.command`."""
    program = (python, *_IMAGE_PROGRAM[1:]) if python else _IMAGE_PROGRAM
    secrets: tuple[str, ...] = ()
    if listen.with_key:
        program = (program[0], "-c", _start_with_key())
        secrets = (key_variable,)
    proof = (flag for flag in _PROOF_FLAGS if flag not in flags)
    arguments = ("--model-path", model, *flags, *proof, *listen.flags, *_node_flags(nodes))
    return EngineCommand(program, arguments, env, secrets)


@lru_cache(maxsize=1)
def _start_with_key() -> str:
    return Path(__file__).with_name("start_with_key.py").read_text(encoding="utf-8")


def _node_flags(nodes: Nodes) -> tuple[str, ...]:
    if nodes.count == 1:
        return ()
    head = f"{nodes.head}:{MASTER_PORT}"
    return ("--nnodes", str(nodes.count), "--node-rank", nodes.rank, "--dist-init-addr", head)
