"""`farspan serve`: plan, launch, wait until it answers, explain."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from farspan.cli.options import EngineName, GpuNames, ModelName, RuntimeName
from farspan.cli.output import json_option, print_json, terminal_width, wrap_command
from farspan.cli.plan_options import engine_flags_argument, plan_options
from farspan.cli.start_options import force_option, ready_limit_option
from farspan.planner.remarks import Remarks
from farspan.sizes import format_seconds

if TYPE_CHECKING:
    from farspan.launch.start_watch import StartError
    from farspan.verbs.serve import PreparedServer

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
Exit code: 0 it answered; 1 it did not start, or ended; 2 bad input; 3 it does not fit; 130 interrupted.
"""


@click.command(
    "serve", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.argument("model", type=ModelName())
@engine_flags_argument
@click.option("--engine", type=EngineName(), default="vllm")
@click.option("--runtime", type=RuntimeName(), default="docker")
@click.option(
    "--gpus", type=GpuNames(), default="detect", help="GPUs of each machine: 8xH200, detect; none for a CPU."
)
@plan_options
@force_option
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
@ready_limit_option
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
@click.option(
    "--python",
    default="",
    help="Local: Python, or conda environment, of the engine.  [default: this]",
)
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
@click.option("--runtime-class", default="", metavar="NAME", help="Kubernetes: such as nvidia.")
@click.option(
    "--toleration", multiple=True, metavar="KEY[=VALUE][:EFFECT]", help="Kubernetes: may be repeated."
)
@click.option(
    "--memory-gib", default=0, help="Kubernetes: memory of each pod, /dev/shm in it.  [default: no limit]"
)
@click.option(
    "--pull-secret", multiple=True, metavar="NAME", help="Kubernetes: for the image; may be repeated."
)
@click.option(
    "--run-as-user", default=0, metavar="UID", help="Kubernetes: not as root.  [default: the image's own]"
)
@click.option(
    "--service-type", type=click.Choice(["ClusterIP", "NodePort", "LoadBalancer"]), default="ClusterIP"
)
@click.option("--dry-run", is_flag=True, help="Print what would run, and start nothing.")
@json_option
def command(**options: Any) -> int:
    """Serve MODEL: plan it, start it, wait until it answers one token, and say why when it does not.

    MODEL is a catalog name (llama-4-scout), a checkpoint's folder, or a hub id (owner/name).
    """
    from farspan.verbs.serve import prepare_server

    dry_run, as_json = options.pop("dry_run"), options.pop("as_json")
    how = {name: options.pop(name) for name in ("if_exists", "detach", "ready_limit")}
    prepared = prepare_server(**options)
    if not dry_run:
        return _start(prepared, as_json=as_json, **how)
    if as_json:
        print_json(prepared.to_json())
        return 0
    width = terminal_width()
    one_line = prepared.text.count("\n") == 0
    click.echo(wrap_command(prepared.text, width) if width and one_line else prepared.text.rstrip("\n"))
    for line in Remarks(prepared.warnings, prepared.notes).lines():
        click.echo(line, err=True)
    return 0


def _start(prepared: PreparedServer, *, as_json: bool, detach: bool, **how: Any) -> int:
    """Start a server, show how its start goes, and say why where it fails."""
    from farspan.cli.signals import terminate_like_interrupt
    from farspan.cli.startview import choose_start_view
    from farspan.launch.prepare_launch import describe_context
    from farspan.launch.start_watch import StartError
    from farspan.verbs.serve import start_prepared

    launch = prepared.runtime.launch
    try:
        with terminate_like_interrupt(), choose_start_view(Console(stderr=True)) as view:
            view.step(f"starting {launch.name}: {describe_context(launch)}")
            for warning in prepared.warnings:
                view.step(f"! {warning}")
            expected = launch.expected
            view.step(f"planned: ready in {format_seconds(expected.total_s)}; {expected.basis}")
            served = start_prepared(prepared, detach=detach, watcher=view, **how)
    except StartError as error:
        _explain(error, launch.name, as_json=as_json)
        return error.exit_code
    if as_json:
        print_json(served.to_json())
    elif detach or launch.runtime == "kubernetes":
        click.echo(f"farspan logs {launch.name} shows its log, farspan stop {launch.name} ends it.", err=True)
    return 0


for _parameter in command.params:
    # An empty default says nothing; where there is one to tell, the help text does.
    if isinstance(_parameter, click.Option) and _parameter.default in ("", 0, 0.0, False):
        _parameter.show_default = False


def _explain(error: StartError, name: str, *, as_json: bool) -> None:
    """Why a server did not start: the doctor's findings, or its last lines."""
    from farspan.cli.startview import describe_finding
    from farspan.escape_terminal import printable

    if as_json:
        findings = [asdict(finding) for finding in error.findings]
        tail = list(error.tail)
        print_json({"error": error.message, "findings": findings, "tail": tail})
    click.echo(f"farspan: {name}: {printable(error.message)}", err=True)
    for finding in error.findings:
        for line in describe_finding(finding):
            click.echo(line, err=True)
    if not error.explained:
        click.echo("Its last lines:", err=True)
        for line in error.tail:
            click.echo(f"  {printable(line)}", err=True)
    click.echo(printable(error.fix), err=True)
