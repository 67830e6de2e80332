"""`farspan serve`: plan, launch, wait until it answers, explain."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from farspan.cli.options import EngineName
from farspan.errors import InputError
from farspan.models.config import WEIGHT_FORMATS
from farspan.models.spec import KvDtype
from farspan.sizes import format_seconds, parse_tokens

EXIT_NOT_STARTED = 1
_EPILOG = """\b
Examples:
  farspan serve llama-4-scout --engine vllm --gpus 8xH200 --context 10M --runtime docker --dry-run
  farspan serve llama-4-scout --engine sglang --engine-version 0.5.23 --gpus 8xH200 --context 10M --detach
  farspan serve llama-4-scout --engine vllm --gpus 8xH200 --context 5M --runtime kubernetes \\
      --volume pvc:models --hf-secret hf --dry-run
  farspan serve ./recall --engine builtin --runtime local --gpus none --context 128k
  VLLM_API_KEY=... farspan serve ./model --runtime local --host 0.0.0.0 --api-key-env VLLM_API_KEY -- --enforce-eager

Flags after -- are the engine's own; those that break the plan are refused. Without --detach the server ends with
this command; farspan status, logs and stop find those that stay.

\b
Exit code: 0 it answered; 1 it did not start, or ended; 2 bad input; 130 interrupted.
"""


@click.command(
    "serve", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.argument("model")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE FLAGS]")
@click.option("--engine", type=EngineName(), default="vllm")
@click.option("--runtime", type=click.Choice(["docker", "kubernetes", "local"]), default="docker")
@click.option(
    "--context",
    type=parse_tokens,
    metavar="SIZE",
    help="Longest request, prompt and answer.  [default: the model's]",
)
@click.option("--gpus", default="detect", help="GPUs of each machine: 8xH200, detect; none for a CPU.")
@click.option("--tp", type=int, help="Tensor-parallel size.  [default: all GPUs]")
@click.option("--concurrency", default=1, help="Requests of that length at once.")
@click.option(
    "--output-tokens", type=parse_tokens, metavar="SIZE", default="200", help="Tokens of the answer."
)
@click.option("--kv-dtype", default="auto", type=click.Choice([kind.value for kind in KvDtype]))
@click.option("--weights", type=click.Choice(list(WEIGHT_FORMATS)), help="Plan as if weights were kept so.")
@click.option(
    "--engine-version", default="", help="[default: the installed one (local), else the newest planned]"
)
@click.option("--accept-nearest-version", is_flag=True, help="Plan an unknown version as the nearest.")
@click.option("--force", is_flag=True, help="Start although it does not fit, or a flag breaks the plan.")
@click.option("--name", default="", help="Name of the server.  [default: from model and engine]")
@click.option(
    "--served-model-name", default="", help="Name on the API.  [default: the hub id or folder name]"
)
@click.option("--host", default="127.0.0.1", help="Address to listen on; others open it to the network.")
@click.option("--port", default=8000, type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@click.option(
    "--api-key-env", default="", metavar="NAME", help="Demand the API key in this environment variable."
)
@click.option("--if-exists", type=click.Choice(["refuse", "replace", "reuse"]), default="refuse")
@click.option("--detach", is_flag=True, help="Return once it answers; it stays.")
@click.option("--ready-limit", type=float, help="Longest start, s.  [default: 3 x planned + 600]")
@click.option(
    "--disk-gbps", type=float, default=0.0, help="How fast weights are read, GB/s.  [default: 0.456]"
)
@click.option("--nodes", default=1, type=click.IntRange(min=1), help="Machines, each with --gpus.")
@click.option("--node-rank", default=0, help="Which machine this is, from 0 (docker, local).")
@click.option("--head", default="", metavar="ADDRESS", help="Address of machine 0 (docker, local).")
@click.option(
    "--distributed", type=click.Choice(["mp", "ray"]), default="mp", help="What joins vLLM's machines."
)
@click.option("--model-path", default="", help="What the engine is given, where it is not MODEL.")
@click.option("--revision", default="main", help="Branch, tag or commit of a hub id.")
@click.option("--offline", is_flag=True, help="Never ask the Hugging Face hub for a config.")
@click.option("--python", default="", help="Local: the Python that has the engine.  [default: this one]")
@click.option("--image", default="", help="Containers: the image.  [default: the engine's of that version]")
@click.option("--shm-gib", default=0, help="Containers: size of /dev/shm.  [default: from the plan]")
@click.option("--devices", default="", help="Docker: GPUs by index or UUID, as 0,1.")
@click.option(
    "--compile-cache", type=click.Path(path_type=Path), help="Docker: folder for vLLM's compiled kernels."
)
@click.option("--docker-arg", multiple=True, help="Docker: one more argument of docker run; may be repeated.")
@click.option("--namespace", default="default", help="Kubernetes: where everything goes.")
@click.option("--kube-context", default="", help="Kubernetes: kubectl's context.  [default: the current one]")
@click.option(
    "--volume", default="", help="Kubernetes: pvc:NAME or a folder of the machines, for the models."
)
@click.option("--volume-read-only", is_flag=True, help="Kubernetes: mount the volume read-only.")
@click.option("--hf-secret", default="", metavar="NAME[:KEY]", help="Kubernetes: Secret with HF_TOKEN.")
@click.option("--key-secret", default="", metavar="NAME[:KEY]", help="Kubernetes: Secret with the API key.")
@click.option("--node-selector", multiple=True, metavar="LABEL=VALUE", help="Kubernetes: may be repeated.")
@click.option(
    "--service-type", type=click.Choice(["ClusterIP", "NodePort", "LoadBalancer"]), default="ClusterIP"
)
@click.option("--dry-run", is_flag=True, help="Print what would run, and start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> int:
    """Serve MODEL: plan it, start it, wait until it answers one token, and say why when it does not.

    MODEL is a catalog name (llama-4-scout), a checkpoint's folder, or a hub id (owner/name).
    """
    from farspan.launch.runtime import IfExists
    from farspan.launch.serve import describe, serve

    runtime = _runtime(options)
    if options["dry_run"]:
        if options["as_json"]:
            click.echo(json.dumps(describe(runtime), indent=2))
        else:
            click.echo(runtime.text().rstrip("\n"))
            for warning in runtime.launch.warnings:
                click.echo(f"! {warning}", err=True)
        return 0
    from farspan.cli.signals import terminate_like_interrupt
    from farspan.cli.startview import choose_start_view
    from farspan.launch.prepare_launch import describe_context
    from farspan.launch.start_watch import StartError

    # What runs in a cluster belongs to the cluster.
    detach = options["detach"] or options["runtime"] == "kubernetes"
    launch = runtime.launch
    try:
        with terminate_like_interrupt(), choose_start_view(Console(stderr=True)) as view:
            view.step(f"starting {launch.name}: {describe_context(launch)}")
            for warning in launch.warnings:
                view.step(f"! {warning}")
            expected = launch.expected
            view.step(f"planned: ready in {format_seconds(expected.total_s)}; {expected.basis}")
            served = asyncio.run(
                serve(
                    runtime,
                    if_exists=IfExists(options["if_exists"]),
                    detach=detach,
                    ready_limit_s=options["ready_limit"],
                    watcher=view,
                )
            )
    except StartError as error:
        _explain(error, launch.name, as_json=options["as_json"])
        return EXIT_NOT_STARTED
    if options["as_json"]:
        click.echo(
            json.dumps(
                {
                    "server": asdict(served.record),
                    "ready_s": served.report.ready_s,
                    "phases": [asdict(phase) for phase in served.report.phases],
                    "compared": [asdict(row) for row in served.report.compared],
                },
                indent=2,
            )
        )
    elif detach:
        click.echo(f"farspan logs {launch.name} shows its log, farspan stop {launch.name} ends it.", err=True)
    return 0


for _parameter in command.params:
    # An empty default says nothing; where there is one to tell, the help text does.
    if isinstance(_parameter, click.Option) and _parameter.default in ("", 0, 0.0, False):
        _parameter.show_default = False


def _runtime(options: dict[str, Any]) -> Any:
    from farspan.launch.docker import DockerOptions
    from farspan.launch.manifest import ClusterOptions
    from farspan.launch.prepare_launch import ServeOptions, prepare
    from farspan.launch.runtimes.choose import choose_runtime

    names = ("engine", "runtime", "context", "gpus", "tp", "nodes", "node_rank", "head", "distributed", "concurrency",
        "output_tokens", "engine_version", "accept_nearest_version", "words", "force", "name", "host", "port", "model",
        "served_model_name", "api_key_env", "image", "model_path", "revision", "python", "offline")  # fmt: skip
    asked = ServeOptions(
        **{name: options[name] for name in names},
        kv_dtype=KvDtype(options["kv_dtype"]),
        weights=options["weights"] or "",
        cluster_key=bool(options["key_secret"]),
        service_type=options["service_type"],
        disk_bytes_per_s=options["disk_gbps"] * 1e9,
    )
    prepared = prepare(asked)
    selector = []
    for text in options["node_selector"]:
        label, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--node-selector {text!r} is no label", "write LABEL=VALUE")
        selector.append((label, value))
    docker = DockerOptions(
        prepared.image,
        options["devices"],
        options["shm_gib"],
        options["docker_arg"],
        options["compile_cache"],
    )
    cluster = ClusterOptions(
        image=prepared.image,
        namespace=options["namespace"],
        volume=options["volume"],
        volume_read_only=options["volume_read_only"],
        hf_secret=options["hf_secret"],
        key_secret=options["key_secret"],
        node_selector=tuple(selector),
        service_type=options["service_type"],
        shm_gib=options["shm_gib"],
    )
    return choose_runtime(prepared, docker, cluster, options["kube_context"])


def _explain(error: Any, name: str, *, as_json: bool) -> None:
    """Why a server did not start: the doctor's findings, or its last lines."""
    from farspan.cli.startview import describe_finding
    from farspan.escape_terminal import printable

    if as_json:
        findings = [asdict(finding) for finding in error.findings]
        tail = list(error.tail)
        click.echo(json.dumps({"error": error.message, "findings": findings, "tail": tail}, indent=2))
    click.echo(f"farspan: {name}: {printable(error.message)}", err=True)
    for finding in error.findings:
        for line in describe_finding(finding):
            click.echo(line, err=True)
    if not error.findings:
        click.echo("Its last lines:", err=True)
        for line in error.tail:
            click.echo(f"  {printable(line)}", err=True)
    click.echo(printable(error.fix), err=True)
