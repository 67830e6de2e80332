"""Plan a server, start it, and wait until it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from farspan.engines.engine import Engine
from farspan.engines.registry import get_engine
from farspan.errors import InputError
from farspan.hardware.node_spelling import names_no_gpu
from farspan.launch.docker import DockerOptions
from farspan.launch.manifest import ClusterOptions, parse_toleration
from farspan.launch.plain_values import check_runtime_values
from farspan.launch.prepare_launch import NO_GPU, prepare
from farspan.launch.runtime import IfExists, Runtime
from farspan.launch.runtime_names import parse_runtime
from farspan.launch.runtimes.choose import choose_runtime
from farspan.launch.serve import RunningServer, ServeWatcher, describe, start_server
from farspan.launch.serve_options import ServeOptions
from farspan.launch.server_records import StateFolder
from farspan.models.spec import KvDtype, parse_kv_dtype
from farspan.sizes import parse_tokens
from farspan.verbs.plan import LONGEST, read_context


@dataclass(frozen=True, slots=True)
class PreparedServer:
    """A server that is planned and decided; nothing was started.

    Args:
        runtime: How it would be run.
    """

    runtime: Runtime

    @property
    def text(self) -> str:
        """The command or manifest, ready to paste, secrets by name only."""
        return self.runtime.text()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before it is started."""
        return tuple(self.runtime.launch.warnings)

    @property
    def notes(self) -> tuple[str, ...]:
        """What explains its plan."""
        return tuple(self.runtime.launch.notes)

    def to_json(self) -> dict[str, Any]:
        """Runtime, engine, argv or manifest, names of environment variables, and the plan."""
        return describe(self.runtime)


@overload
def serve(model: str, *, dry_run: Literal[True], **settings: Any) -> PreparedServer: ...
@overload
def serve(model: str, *, dry_run: Literal[False] = False, **settings: Any) -> RunningServer: ...
def serve(
    model: str,
    *,
    dry_run: bool = False,
    if_exists: str = "refuse",
    detach: bool = True,
    ready_limit: float | None = None,
    state: StateFolder | None = None,
    watcher: ServeWatcher | None = None,
    **settings: Any,
) -> PreparedServer | RunningServer:
    """Plan a server, start it, and wait until it answers one token.

    A start that fails leaves its record and its log, nothing that runs. A server that stays (`detach`) is ended with
    `farspan.stop`.

    Args:
        model: A catalog name, a checkpoint's folder, or a hub id.
        dry_run: Start nothing; return what would run.
        if_exists: "refuse", "replace" or "reuse" a server of that name.
        detach: Return once the server answers; else stay with it until it ends.
        ready_limit: Longest start, s; three times the planned one and ten minutes when None.
        state: Where the records are; the user's own folder when None.
        watcher: Its methods are called as the start goes on.
        settings: Everything that `prepare_server` takes.

    Raises:
        InputError: The server cannot be planned so, or its flags break the plan.
        StartError: It did not start; with the doctor's findings.
        LaunchError: docker, kubectl or a process failed.
    """
    prepared = prepare_server(model, **settings)
    if dry_run:
        return prepared
    return start_prepared(
        prepared, if_exists=if_exists, detach=detach, ready_limit=ready_limit, state=state, watcher=watcher
    )


def start_prepared(
    prepared: PreparedServer,
    *,
    if_exists: str = "refuse",
    detach: bool = True,
    ready_limit: float | None = None,
    state: StateFolder | None = None,
    watcher: ServeWatcher | None = None,
) -> RunningServer:
    """Start a prepared server; see `serve`. What runs in a cluster belongs to the cluster: it always stays."""
    runtime = prepared.runtime
    return asyncio.run(
        start_server(
            runtime,
            state=state,
            if_exists=IfExists(if_exists),
            detach=detach or runtime.launch.runtime == "kubernetes",
            ready_limit_s=ready_limit,
            watcher=watcher,
        )
    )


def prepare_server(
    model: str,
    *,
    engine: str | Engine = "vllm",
    runtime: str = "docker",
    context: str | int | None = None,
    gpus: str = "detect",
    tp: int | None = None,
    concurrency: int = 1,
    output_tokens: str | int = 200,
    kv_dtype: str | KvDtype = KvDtype.AUTO,
    weights: str | None = None,
    engine_version: str = "",
    accept_nearest_version: bool = False,
    engine_flags: Sequence[str] = (),
    force: bool = False,
    name: str = "",
    served_model_name: str = "",
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_env: str = "",
    disk_gbps: float = 0.0,
    nodes: int = 1,
    node_rank: int = 0,
    head: str = "",
    distributed: str = "mp",
    model_path: str = "",
    revision: str = "main",
    offline: bool = False,
    no_calibration: bool = False,
    elastic: bool = False,
    ignore_fields: Sequence[str] = (),
    rope_scaling: str = "",
    python: str = "",
    image: str = "",
    shm_gib: int = 0,
    devices: str = "",
    compile_cache: Path | None = None,
    docker_arg: Sequence[str] = (),
    namespace: str = "default",
    kube_context: str = "",
    volume: str = "",
    volume_read_only: bool = False,
    hf_secret: str = "",
    key_secret: str = "",
    node_selector: Sequence[str] = (),
    runtime_class: str = "",
    toleration: Sequence[str] = (),
    memory_gib: int = 0,
    pull_secret: Sequence[str] = (),
    run_as_user: int = 0,
    service_type: str = "ClusterIP",
) -> PreparedServer:
    """Plan a server and decide what would run; starts nothing.

    The arguments are the options of `farspan serve`, by their names; sizes in tokens are numbers or text such as
    "10M". `farspan serve --help` says what each one does.

    Raises:
        InputError: The server cannot be planned so, or its flags break the plan.
    """
    context = read_context(context)
    options = ServeOptions(
        model=model,
        engine=get_engine(engine) if isinstance(engine, str) else engine,
        runtime=parse_runtime(runtime),
        context=None if context in (None, LONGEST) else parse_tokens(str(context)),
        longest=context == LONGEST,
        gpus=NO_GPU if names_no_gpu(gpus) else gpus,
        tp=tp,
        nodes=nodes,
        node_rank=node_rank,
        head=head,
        distributed=distributed,
        concurrency=concurrency,
        output_tokens=parse_tokens(str(output_tokens)),
        kv_dtype=parse_kv_dtype(kv_dtype),
        weights=weights or "",
        engine_version=engine_version,
        accept_nearest_version=accept_nearest_version,
        words=tuple(engine_flags),
        force=force,
        name=name,
        host=host,
        port=port,
        served_model_name=served_model_name,
        api_key_env=api_key_env,
        cluster_key=bool(key_secret),
        service_type=service_type,
        image=image,
        model_path=model_path,
        revision=revision,
        python=python,
        disk_bytes_per_s=disk_gbps * 1e9,
        offline=offline,
        no_calibration=no_calibration,
        elastic=elastic,
        ignore_fields=tuple(ignore_fields),
        rope_scaling=rope_scaling,
        volume=volume,
        hf_secret=bool(hf_secret),
        own_mounts=bool(docker_arg),
    )
    check_runtime_values(
        options,
        {
            "--devices": devices,
            "--compile-cache": "" if compile_cache is None else str(compile_cache),
            "--namespace": namespace,
            "--kube-context": kube_context,
            "--volume": volume,
            "--hf-secret": hf_secret,
            "--key-secret": key_secret,
            "--runtime-class": runtime_class,
            **{f"--node-selector {index}": text for index, text in enumerate(node_selector, 1)},
            **{f"--toleration {index}": text for index, text in enumerate(toleration, 1)},
            **{f"--pull-secret {index}": text for index, text in enumerate(pull_secret, 1)},
        },
        docker_arg,
    )
    prepared = prepare(options)
    docker = DockerOptions(prepared.image, devices, shm_gib, tuple(docker_arg), compile_cache)
    cluster = ClusterOptions(
        image=prepared.image,
        namespace=namespace,
        volume=volume,
        volume_read_only=volume_read_only,
        hf_secret=hf_secret,
        key_secret=key_secret,
        node_selector=tuple(_label(text) for text in node_selector),
        runtime_class=runtime_class,
        tolerations=tuple(parse_toleration(text) for text in toleration),
        memory_gib=memory_gib,
        pull_secrets=tuple(pull_secret),
        run_as_user=run_as_user,
        service_type=service_type,
        shm_gib=shm_gib,
    )
    return PreparedServer(choose_runtime(prepared, docker, cluster, kube_context))


def _label(text: str) -> tuple[str, str]:
    label, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--node-selector {text!r} is no label", "write LABEL=VALUE")
    return label, value
