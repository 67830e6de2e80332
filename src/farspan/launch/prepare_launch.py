"""From what was asked to what would run: plan, check, decide. Starts nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from farspan.engines.command import EngineCommand, Listen, Nodes, check_words, split_lists
from farspan.engines.engine import Engine
from farspan.errors import InputError
from farspan.hardware.node_spelling import parse_node
from farspan.launch.expected import DISK_BYTES_PER_S, expect_start
from farspan.launch.hubcache import ModelFiles, find_model_files
from farspan.launch.launch_spec import Launch, is_loopback
from farspan.launch.local import find_free_port
from farspan.launch.manifest import LWS_LEADER, LWS_RANK
from farspan.launch.server_records import check_name
from farspan.models.config import engine_model_name, load_model
from farspan.models.hub import is_hub_id
from farspan.models.spec import KvDtype, ModelSpec
from farspan.planner.checked import check_overrides
from farspan.planner.engine_flags import parse_engine_flags
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.sizes import format_tokens

INSIDE_PORT = 8000
NO_GPU = "none"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the user wants served.

    Args:
        model: A catalog name, a folder, a config.json or a hub id.
        engine: The engine.
        runtime: "local", "docker" or "kubernetes".
        context: Longest request, prompt and answer together, in tokens; None for the model's.
        gpus: GPUs of one machine as in `farspan plan`; "none" for a CPU.
        tp: Tensor-parallel size; None for all GPUs of all machines.
        nodes: Machines.
        node_rank: Which machine this is.
        head: Address of the first machine.
        distributed: "mp" or "ray".
        concurrency: Requests of that length at once.
        output_tokens: Tokens of an answer.
        kv_dtype: Type of the KV cache.
        weights: Plan as if the weights were kept so.
        engine_version: Empty for the installed one (local), else the newest one planned.
        accept_nearest_version: Plan an unknown version as the nearest.
        words: The engine's own flags.
        force: Start although the flags break the plan.
        name: The server's name; empty for one made of model and engine.
        host: Where it listens on this machine.
        port: Port; 0 for a free one.
        served_model_name: What the API calls the model; empty for its own name.
        api_key_env: Environment variable that holds the API key; empty for no key.
        cluster_key: Whether a Kubernetes Secret holds the API key.
        service_type: Type of the Kubernetes Service.
        image: The image; empty for the engine's of that version.
        model_path: What the engine is given as its model, where that is not MODEL.
        revision: Branch, tag or commit of a hub id.
        python: The Python that has the engine (local); empty for this one.
        disk_bytes_per_s: How fast weights are read, bytes/s; 0 for the default.
        offline: Never ask the hub for a config.
        environment: This program's environment.
    """

    model: str
    engine: Engine
    runtime: str
    context: int | None = None
    gpus: str = "detect"
    tp: int | None = None
    nodes: int = 1
    node_rank: int = 0
    head: str = ""
    distributed: str = "mp"
    concurrency: int = 1
    output_tokens: int = 200
    kv_dtype: KvDtype = KvDtype.AUTO
    weights: str = ""
    engine_version: str = ""
    accept_nearest_version: bool = False
    words: tuple[str, ...] = ()
    force: bool = False
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str = ""
    api_key_env: str = ""
    cluster_key: bool = False
    service_type: str = "ClusterIP"
    image: str = ""
    model_path: str = ""
    revision: str = "main"
    python: str = ""
    disk_bytes_per_s: float = 0.0
    offline: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What would run.

    Args:
        launch: The server.
        image: The image; empty for a local process.
        worker: The command of every machine but the first (Kubernetes); None for one machine.
    """

    launch: Launch
    image: str = ""
    worker: EngineCommand | None = None


def prepare(asked: ServeOptions) -> Prepared:
    """Plan and decide.

    Raises:
        DoesNotFitError: The memory is too small (unless forced).
        InputError: A flag breaks the plan (unless forced), the model cannot be found, a port or
            key is missing.
    """
    _check(asked)
    check_words(asked.words)
    spec = load_model(asked.model, weights=asked.weights, allow_network=not asked.offline)
    version = _version(asked)
    context = asked.context or spec.max_position_embeddings
    flags, env, plan, notes = _planned(asked, spec, context, version)
    version = plan.version if plan else version
    files = _files(asked)
    container = asked.runtime != "local"
    with_key = bool(asked.api_key_env) or asked.cluster_key
    port = asked.port or find_free_port()
    direct = not container or (asked.runtime == "docker" and asked.nodes > 1)
    inside = (
        Listen(asked.host, port, files.name, with_key)
        if direct
        else Listen("0.0.0.0", INSIDE_PORT, files.name, with_key)
    )
    python = "" if container else asked.python or sys.executable
    nodes = _nodes(asked)
    model = files.inside if container else files.outside
    command = asked.engine.command(model, flags, env, inside, nodes, python=python)
    if not container and "HF_HUB_OFFLINE" in files.env:
        command = replace(command, env={**command.env, "HF_HUB_OFFLINE": files.env["HF_HUB_OFFLINE"]})
    ranks = plan_ranks(asked, plan)
    secrets = {name: asked.api_key_env for name in command.secrets if asked.api_key_env}
    launch = Launch(
        name=check_name(asked.name or default_name(files.name, asked.engine.name)),
        runtime=asked.runtime,
        engine=asked.engine,
        version=version,
        command=command,
        files=files,
        host=asked.host,
        port=port,
        context=context,
        gpus=ranks if asked.gpus != NO_GPU else 0,
        nodes=nodes,
        secrets={**secrets, **{name: name for name in files.secrets}},
        expected=expect_start(
            asked.engine,
            spec,
            ranks,
            disk_bytes_per_s=asked.disk_bytes_per_s or DISK_BYTES_PER_S,
            eager=any(name in flags for name in asked.engine.eager_flags),
        ),
        plan=plan,
        gpu="" if asked.gpus == NO_GPU else parse_node(asked.gpus).gpu.name,
        warnings=(*notes, *_exposure(asked, with_key=with_key), *(plan.warnings if plan else ())),
    )
    image = (asked.image or asked.engine.image(version)) if container else ""
    worker = None
    if asked.runtime == "kubernetes" and asked.nodes > 1:
        others = replace(nodes, rank=LWS_RANK)
        worker = asked.engine.command(model, flags, env, inside, others)
    return Prepared(launch, image, worker)


def plan_ranks(asked: ServeOptions, plan: EnginePlan | None) -> int:
    """Ranks on one machine."""
    if plan is None:
        return 1
    node = parse_node(asked.gpus)
    return (asked.tp or node.count * asked.nodes) // asked.nodes


def default_name(model: str, engine: str) -> str:
    """A name for a server: the model's, made fit for containers and clusters, and the engine's."""
    slug = re.sub(r"[^a-z0-9]+", "-", model.rsplit("/", 1)[-1].lower()).strip("-")
    slug = slug if slug[:1].isalpha() else f"m-{slug}"
    return f"{slug[: 49 - len(engine)].rstrip('-')}-{engine}"


def _check(asked: ServeOptions) -> None:
    if asked.runtime != "local" and not asked.image:
        asked.engine.image(asked.engine_version or asked.engine.newest_version)
    if asked.gpus == NO_GPU and asked.runtime != "local" and not asked.image:
        raise InputError(
            f"the public image of {asked.engine.name} needs a GPU",
            "use --runtime local with --gpus none, or name an image for CPUs with --image and --engine-version",
        )
    if asked.nodes > 1 and asked.runtime != "kubernetes" and not asked.head:
        raise InputError(
            "several machines must know the first one", "give --head ADDRESS, and --node-rank on each of them"
        )
    if not 0 <= asked.node_rank < asked.nodes:
        raise InputError(f"--node-rank {asked.node_rank} is not below --nodes {asked.nodes}", "count from 0")
    if asked.runtime == "kubernetes" and asked.api_key_env:
        raise InputError(
            "on Kubernetes the API key comes from a Secret", "make one and name it with --key-secret NAME:KEY"
        )
    if asked.api_key_env and not asked.environment.get(asked.api_key_env):
        raise InputError(f"--api-key-env {asked.api_key_env} is not set", f"export {asked.api_key_env}=...")


def _version(asked: ServeOptions) -> str:
    if asked.engine_version:
        return asked.engine_version
    if not asked.engine.distributions:
        return asked.engine.newest_version
    if asked.runtime == "local":
        return _installed_version(asked)
    if asked.image:
        raise InputError("farspan cannot tell which version is in --image", "add --engine-version")
    return asked.engine.newest_version


def _installed_version(asked: ServeOptions) -> str:
    """The version of the engine in the user's Python."""
    code = (
        "import sys\nfrom importlib.metadata import version\n"
        "for name in sys.argv[1:]:\n    try: print(version(name)); break\n    except Exception: pass"
    )
    python = asked.python or sys.executable
    try:
        done = subprocess.run(
            [python, "-c", code, *asked.engine.distributions],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except OSError as error:
        raise InputError(
            f"{python} cannot be run ({error.strerror})", "name another with --python"
        ) from error
    found = done.stdout.strip()
    if not found:
        raise InputError(
            f"{asked.engine.name} is not installed in {python}",
            "name the Python that has it with --python, or use --runtime docker",
        )
    return found.partition("+")[0]


def _planned(
    asked: ServeOptions, spec: ModelSpec, context: int, version: str
) -> tuple[tuple[str, ...], Mapping[str, str], EnginePlan | None, tuple[str, ...]]:
    """Flags, environment, plan, and what the user must know."""
    given = parse_engine_flags(asked.words)
    if asked.gpus == NO_GPU:
        return (*_unplanned(asked, spec, given, context), None, ())
    node = parse_node(asked.gpus)
    total = node.count * asked.nodes
    request = PlanRequest(
        model=spec,
        gpu=node.gpu,
        gpus=total,
        tp=asked.tp or min(total, asked.engine.most_ranks or total),
        context=context,
        concurrency=asked.concurrency,
        kv_dtype=asked.kv_dtype,
        engine_version=version,
        accept_nearest_version=asked.accept_nearest_version,
        engine_flags=given,
        output_tokens=asked.output_tokens,
        host_memory_bytes=node.host_memory_bytes,
    )
    if request.tp % asked.nodes:
        raise InputError(
            f"--tp {request.tp} is not a multiple of --nodes {asked.nodes}", "use all GPUs of each"
        )
    checked = check_overrides(request, asked.engine, force=asked.force)
    return split_lists(checked.flags, asked.words), checked.plan.env, checked.plan, checked.notes


def _unplanned(
    asked: ServeOptions, spec: ModelSpec, given: Mapping[str, str | None], context: int
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Flags for a machine without a GPU: the context, and the user's own."""
    name = asked.engine.context_flag
    longest = spec.max_position_embeddings
    if context > longest and not asked.force:
        raise InputError(
            f"a context of {format_tokens(context)} is above the {format_tokens(longest)} tokens {spec.name} was made "
            "for",
            f"use --context {format_tokens(longest)} or less, or add --force",
        )
    own = given.get(name)
    if own is not None and own.isdigit() and int(own) < context and asked.context and not asked.force:
        raise InputError(f"{name} {own} is below --context {context}", f"drop {name}, or add --force")
    on_cpu = asked.engine.cpu_flags
    flags = [] if on_cpu and on_cpu[0] in given else list(on_cpu)
    if name not in given:
        flags += [name, str(context)]
    if asked.kv_dtype is not KvDtype.AUTO:
        flags += ["--kv-cache-dtype", asked.kv_dtype.value]
    return (*flags, *asked.words), {}


def _files(asked: ServeOptions) -> ModelFiles:
    model = engine_model_name(asked.model)
    if asked.model_path:
        name = model if is_hub_id(model) else Path(model).name
        files = ModelFiles(name, asked.model_path, asked.model_path)
    elif asked.runtime == "kubernetes":
        if not is_hub_id(model):
            raise InputError(
                f"{model} is a folder of this machine",
                "give --model-path with its folder in the cluster's --volume",
            )
        files = ModelFiles(model, model, model, downloads=True)
    else:
        files = find_model_files(
            model, asked.environment, revision=asked.revision, container=asked.runtime == "docker"
        )
    return replace(files, name=asked.served_model_name) if asked.served_model_name else files


def _nodes(asked: ServeOptions) -> Nodes:
    if asked.nodes == 1:
        return Nodes()
    if asked.runtime == "kubernetes":
        return Nodes(asked.nodes, "0", LWS_LEADER, asked.distributed)
    return Nodes(asked.nodes, str(asked.node_rank), asked.head, asked.distributed)


def _exposure(asked: ServeOptions, *, with_key: bool) -> Sequence[str]:
    """What is open to whom."""
    if asked.runtime == "kubernetes":
        if asked.service_type == "ClusterIP" or with_key:
            return ()
        return (
            f"A {asked.service_type} Service is open to machines outside the cluster, and wants no API key: anyone "
            "who reaches it can use the model. Add --key-secret NAME:KEY, or use ClusterIP.",
        )
    if is_loopback(asked.host):
        return ()
    where = f"{asked.host}:{asked.port}"
    through = " Docker publishes ports past most host firewalls." if asked.runtime == "docker" else ""
    if with_key:
        return (f"{where} is open to every machine that reaches this one, without encryption.{through}",)
    fix = f"--api-key-env {asked.engine.key_variable}"
    return (
        f"{where} is open to every machine that reaches this one, and wants no API key: anyone can use the model. "
        f"Add {fix}, or drop --host.{through}",
    )


def describe_context(launch: Launch) -> str:
    """The server in a few words."""
    gpus = f", {launch.gpus} GPUs" if launch.gpus else ""
    machines = f" on each of {launch.nodes.count} machines" if launch.nodes.count > 1 else ""
    size = format_tokens(launch.context)
    return f"{launch.files.name}, {size} tokens, {launch.engine.name} {launch.version}{gpus}{machines}"
