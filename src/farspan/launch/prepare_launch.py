"""From what the user wants served to what would run: plan, check, decide. Starts nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from farspan.engines.command import EngineCommand, Listen, Nodes, check_words, split_lists
from farspan.engines.flag_ranks import choose_tp
from farspan.errors import DoesNotFitError, InputError, UnsupportedError
from farspan.hardware.node_spelling import parse_node
from farspan.launch.elastic import elastic_notes, with_elastic
from farspan.launch.engine_python import check_modules, find_python, installed_version, tagged_version
from farspan.launch.expected import DISK_BYTES_PER_S, expect_start
from farspan.launch.hubcache import ModelFiles
from farspan.launch.launch_spec import INSIDE_PORT, Launch, is_loopback
from farspan.launch.local import find_free_port
from farspan.launch.manifest import LWS_LEADER, LWS_RANK
from farspan.launch.model_location import describe_download, locate_model
from farspan.launch.plain_values import check_options, check_values
from farspan.launch.plan_arguments import list_plan_arguments
from farspan.launch.plan_question import longest_context, plan_question
from farspan.launch.serve_options import ServeOptions
from farspan.launch.server_records import check_name
from farspan.models.config import keeps_weights_so, load_model
from farspan.models.spec import KvDtype, ModelSpec
from farspan.models.weights import rank_weight_bytes
from farspan.planner.checked import check_overrides
from farspan.planner.engine_flags import parse_engine_flags
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.sizes import format_tokens

NO_GPU = "none"


@dataclass(frozen=True, slots=True)
class PreparedLaunch:
    """A server that is decided, and what a container needs besides.

    Args:
        launch: The server.
        image: The image; empty for a local process.
        worker: The command of every machine but the first (Kubernetes); None for one machine.
    """

    launch: Launch
    image: str = ""
    worker: EngineCommand | None = None


def prepare(options: ServeOptions) -> PreparedLaunch:
    """Plan a server and decide how it is started.

    Raises:
        DoesNotFitError: The memory is too small (unless forced).
        InputError: A flag breaks the plan (unless forced), the model cannot be found, a port or
            key is missing.
    """
    if options.python:
        options = replace(options, python=find_python(options.python, options.environment))
    _check(options)
    options = with_elastic(options)
    check_words(options.words)
    check_options(options)
    _check_weights(options, parse_engine_flags(options.words))
    spec = load_model(
        options.model,
        weights=options.weights,
        allow_network=not options.offline,
        ignore_fields=options.ignore_fields,
        rope_scaling=options.rope_scaling,
    )
    options = _with_tp(options, spec)
    version = _version(options)
    context = options.context or spec.max_position_embeddings
    if options.longest and options.gpus != NO_GPU:
        context = longest_context(options, spec, version)
    flags, env, plan, notes, request = _plan(options, spec, context, version)
    version = plan.version if plan else version
    files = _files(options)
    check_values({"the model's name": files.name}, cluster=options.runtime == "kubernetes")
    container = options.runtime != "local"
    with_key = bool(options.api_key_env) or options.cluster_key
    port = options.port or find_free_port()
    direct = not container or (options.runtime == "docker" and options.nodes > 1)
    inside = (
        Listen(options.host, port, files.name, with_key)
        if direct
        else Listen("0.0.0.0", INSIDE_PORT, files.name, with_key)
    )
    python = "" if container else options.python or sys.executable
    nodes = _nodes(options)
    model = files.inside if container else files.outside
    command = options.engine.command(model, flags, env, inside, nodes, python=python)
    if not container and "HF_HUB_OFFLINE" in files.env:
        command = replace(command, env={**command.env, "HF_HUB_OFFLINE": files.env["HF_HUB_OFFLINE"]})
    ranks = plan_ranks(options, plan)
    secrets = {name: options.api_key_env for name in command.secrets if options.api_key_env}
    launch = Launch(
        name=check_name(options.name or default_name(files.name, options.engine.name)),
        runtime=options.runtime,
        engine=options.engine,
        version=version,
        command=command,
        files=files,
        host=options.host,
        port=port,
        context=context,
        gpus=ranks if options.gpus != NO_GPU else 0,
        nodes=nodes,
        secrets={**secrets, **{name: name for name in files.secrets}},
        expected=expect_start(
            options.engine,
            spec,
            ranks,
            disk_bytes_per_s=options.disk_bytes_per_s or DISK_BYTES_PER_S,
            eager=any(name in flags for name in options.engine.eager_flags),
            downloads=files.downloads,
        ),
        plan=plan,
        gpu="" if options.gpus == NO_GPU else parse_node(options.gpus).gpu.name,
        warnings=(
            *_exposure(options, with_key=with_key),
            *((f"{request.gpu.assumed}.",) if request is not None and request.gpu.assumed else ()),
            *files.notes,
            *elastic_notes(options),
            *describe_download(
                files, rank_weight_bytes(spec).total, options.environment, with_secret=options.hf_secret
            ),
            *notes,
            *(plan.warnings if plan else ()),
        ),
        notes=plan.notes if plan else (),
        request=request,
        plan_arguments=list_plan_arguments(options, request),
    )
    image = (options.image or options.engine.image(version)) if container else ""
    worker = None
    if options.runtime == "kubernetes" and options.nodes > 1:
        others = replace(nodes, rank=LWS_RANK)
        worker = options.engine.command(model, flags, env, inside, others)
    return PreparedLaunch(launch, image, worker)


def _with_tp(options: ServeOptions, spec: ModelSpec) -> ServeOptions:
    """The options with the largest tensor-parallel size the heads allow, where none is given for one machine's GPUs."""
    if options.tp is not None or options.gpus == NO_GPU or options.nodes > 1:
        return options
    total = parse_node(options.gpus).count
    flags = parse_engine_flags(options.words)
    return replace(options, tp=choose_tp(spec, min(total, options.engine.most_ranks or total), flags))


def plan_ranks(options: ServeOptions, plan: EnginePlan | None) -> int:
    """Ranks on one machine."""
    if plan is None:
        return 1
    node = parse_node(options.gpus)
    return (options.tp or node.count * options.nodes) // options.nodes


def default_name(model: str, engine: str) -> str:
    """A name for a server: the model's, made fit for containers and clusters, and the engine's."""
    slug = re.sub(r"[^a-z0-9]+", "-", model.rsplit("/", 1)[-1].lower()).strip("-")
    slug = slug if slug[:1].isalpha() else f"m-{slug}"
    return f"{slug[: 49 - len(engine)].rstrip('-')}-{engine}"


def _check(options: ServeOptions) -> None:
    if options.runtime != "local" and not options.image:
        options.engine.image(options.engine_version or options.engine.newest_version)
    if options.gpus == NO_GPU and options.runtime != "local" and not options.image:
        raise UnsupportedError(
            f"the public image of {options.engine.name} needs a GPU",
            "use --runtime local with --gpus none, or name an image for CPUs with --image and --engine-version",
        )
    if options.nodes > 1 and options.runtime != "kubernetes" and not options.head:
        raise InputError(
            "several machines must know the first one", "give --head ADDRESS, and --node-rank on each of them"
        )
    if not 0 <= options.node_rank < options.nodes:
        raise InputError(
            f"--node-rank {options.node_rank} is not below --nodes {options.nodes}", "count from 0"
        )
    if options.runtime == "kubernetes" and options.api_key_env:
        raise InputError(
            "on Kubernetes the API key comes from a Secret", "make one and name it with --key-secret NAME:KEY"
        )
    if options.api_key_env and not options.environment.get(options.api_key_env):
        raise InputError(
            f"--api-key-env {options.api_key_env} is not set", f"export {options.api_key_env}=..."
        )


def _version(options: ServeOptions) -> str:
    if options.engine_version:
        return options.engine_version
    if not options.engine.distributions:
        if options.runtime == "local" and not options.python:
            check_modules(options.engine)
        return options.engine.newest_version
    if options.runtime == "local":
        return installed_version(options.engine, options.python or sys.executable)
    if options.image:
        return tagged_version(options.image)
    return options.engine.newest_version


def _plan(
    options: ServeOptions, spec: ModelSpec, context: int, version: str
) -> tuple[tuple[str, ...], Mapping[str, str], EnginePlan | None, tuple[str, ...], PlanRequest | None]:
    """Flags, environment, plan, what the user must know, and what was planned."""
    given = parse_engine_flags(options.words)
    if options.gpus == NO_GPU:
        return (*_flags_without_plan(options, spec, given, context), None, (), None)
    request = plan_question(options, spec, context, version)
    if request.tp % options.nodes:
        raise InputError(
            f"--tp {request.tp} is not a multiple of --nodes {options.nodes}", "use all GPUs of each"
        )
    try:
        checked = check_overrides(request, options.engine, force=options.force)
    except DoesNotFitError as error:
        if options.context or options.longest:
            raise
        longest = longest_context(options, spec, version)
        if longest >= context:
            raise
        raise DoesNotFitError(
            f"{error.message} (the model's longest, as no --context was given)",
            f"give --context max, {longest:,} tokens here; {error.fix}",
        ) from error
    return split_lists(checked.flags, options.words), checked.plan.env, checked.plan, checked.notes, request


def _flags_without_plan(
    options: ServeOptions, spec: ModelSpec, given: Mapping[str, str | None], context: int
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Flags for a machine without a GPU: the context, and the user's own."""
    name = options.engine.context_flag
    longest = spec.max_position_embeddings
    if context > longest and not options.force:
        raise InputError(
            f"a context of {format_tokens(context)} is above the {format_tokens(longest)} tokens {spec.name} was made "
            "for",
            f"ask for {format_tokens(longest)} or less, or add --force",
        )
    own = given.get(name)
    if own is not None and own.isdigit() and int(own) < context and options.context and not options.force:
        raise InputError(f"{name} {own} is below --context {context}", f"drop {name}, or add --force")
    on_cpu = options.engine.cpu_flags
    flags = [] if on_cpu and on_cpu[0] in given else list(on_cpu)
    if name not in given:
        flags += [name, str(context)]
    if options.kv_dtype is not KvDtype.AUTO:
        flags += ["--kv-cache-dtype", options.kv_dtype.value]
    return (*flags, *options.words), {}


def _files(options: ServeOptions) -> ModelFiles:
    files = locate_model(
        options.model,
        options.runtime,
        options.environment,
        model_path=options.model_path,
        revision=options.revision,
        volume=options.volume,
        own_container=bool(options.image) or options.own_mounts,
    )
    return replace(files, name=options.served_model_name) if options.served_model_name else files


def _check_weights(options: ServeOptions, given: Mapping[str, str | None]) -> None:
    """Refuse to start a checkpoint other than the planned one.

    Raises:
        InputError: The weights are planned in a format that the checkpoint does not keep them in.
    """
    weights = options.weights
    if not weights or options.model_path or options.force or given.get("--quantization") == weights:
        return
    if not keeps_weights_so(options.model, weights, allow_network=not options.offline):
        raise InputError(
            f"--weights {weights} plans a checkpoint that {options.model} is not",
            f"give --model-path with the folder or hub id of one kept in {weights}, or drop --weights",
        )


def _nodes(options: ServeOptions) -> Nodes:
    if options.nodes == 1:
        return Nodes()
    if options.runtime == "kubernetes":
        return Nodes(options.nodes, "0", LWS_LEADER, options.distributed)
    return Nodes(options.nodes, str(options.node_rank), options.head, options.distributed)


def _exposure(options: ServeOptions, *, with_key: bool) -> Sequence[str]:
    """Warnings about who can reach the server."""
    if options.runtime == "kubernetes":
        if options.service_type == "ClusterIP" or with_key:
            return ()
        return (
            f"A {options.service_type} Service is open to machines outside the cluster, and wants no API key: anyone "
            "who reaches it can use the model. Add --key-secret NAME:KEY, or use ClusterIP.",
        )
    if is_loopback(options.host):
        return ()
    where = f"{options.host}:{options.port}"
    through = " Docker publishes ports past most host firewalls." if options.runtime == "docker" else ""
    if with_key:
        return (f"{where} is open to every machine that reaches this one, without encryption.{through}",)
    fix = f"--api-key-env {options.engine.key_variable}"
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
