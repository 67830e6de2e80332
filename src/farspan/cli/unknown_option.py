"""What was meant by an option a verb lacks: the verb's own word for it, or an engine's flag in the wrong place."""

from __future__ import annotations

import click

# Words of engines, of other tools and of everyday use, and the options of farspan's verbs for them; the first there is.
_MEANT = {
    "--context": ("--contexts", "--tokens", "--max-context"),
    "--contexts": ("--context",),
    "--max-model-len": ("--context",),
    "--context-length": ("--context", "--contexts"),
    "--context-size": ("--context", "--contexts"),
    "--context-len": ("--context", "--contexts"),
    "--max-context": ("--context", "--contexts"),
    "--max-seq-len": ("--context",),
    "--length": ("--context", "--contexts", "--tokens"),
    "--input-tokens": ("--contexts", "--tokens"),
    "--prompt-tokens": ("--contexts", "--tokens"),
    "--tensor-parallel-size": ("--tp",),
    "--tensor-parallel": ("--tp",),
    "--tp-size": ("--tp",),
    "--pipeline-parallel-size": ("--pp",),
    "--kv-cache-dtype": ("--kv-dtype",),
    "--quantization": ("--weights",),
    "--dtype": ("--weights",),
    "--max-num-seqs": ("--concurrency",),
    "--max-running-requests": ("--concurrency",),
    "--max-concurrency": ("--concurrency",),
    "--batch-size": ("--concurrency",),
    "--requests": ("--num-prompts", "--repeats", "--concurrency"),
    "--num-requests": ("--num-prompts", "--repeats"),
    "--max-tokens": ("--output-tokens",),
    "--max-new-tokens": ("--output-tokens",),
    "--output-len": ("--output-tokens",),
    "--gpu": ("--gpus", "--devices"),
    "--num-gpus": ("--gpus",),
    "--engines": ("--engine",),
    "--backend": ("--engine", "--api"),
    "--version": ("--engine-version",),
    "--vllm-version": ("--engine-version",),
    "--sglang-version": ("--engine-version",),
    "--dataset": ("--corpus",),
    "--dataset-path": ("--corpus",),
    "--dataset-name": ("--corpus",),
    "--text": ("--corpus",),
    "--memory": ("--memory-gib", "--gpu-memory-gib"),
    "--memory-request": ("--memory-gib",),
    "--memory-limit": ("--memory-gib",),
    "--gpu-memory": ("--gpu-memory-gib",),
    "--vram": ("--gpu-memory-gib",),
    "--shm-size": ("--shm-gib",),
    "--runtime-class-name": ("--runtime-class",),
    "--docker": ("--runtime docker",),
    "--k8s": ("--runtime kubernetes",),
    "--kubernetes": ("--runtime kubernetes",),
    "--conda-env": ("--python",),
    "--env": ("--python",),
    "--csv": ("--format csv",),
    "--html": ("--format html",),
    "--markdown": ("--format md",),
    "--out": ("--output",),
    "--output-file": ("--output",),
    "--output-dir": ("--output", "--run"),
    "--folder": ("--output", "--run"),
    "--tail": ("--lines",),
    "--duration": ("--time-limit",),
    "--max-time": ("--time-limit",),
    "--timeout": ("--first-token-timeout", "--ready-limit"),
    "--host-port": ("--port",),
    "--replace": ("--if-exists replace",),
    "--force-restart": ("--if-exists replace",),
    "--background": ("--detach",),
    "--daemon": ("--detach",),
    "--print": ("--dry-run",),
    "--plan-only": ("--dry-run",),
    "--model-name": ("--served-model-name", "--model"),
}


# What verbs take without an option.
_BY_ITSELF = ("--model", "--name", "--server", "--url", "--log", "--file", "--path", "--run", "--source")


def suggest(error: click.NoSuchOption) -> tuple[str, str] | None:
    """What is wrong and what to write, for an option that the verb does not have; None where nothing is known of it."""
    context = error.ctx
    if context is None:
        return None
    verb, command = context.command_path, context.command
    name = error.option_name.partition("=")[0]
    options = {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}
    message = f"No such option {name!r}"
    argument = next((one for one in command.params if isinstance(one, click.Argument)), None)
    if argument is not None and name in _BY_ITSELF and argument.name != "engine_flags":
        return message, f"write it by itself: {verb} {argument.make_metavar(context).strip('[].')}"
    own = next((word for word in _MEANT.get(name, ()) if word.partition(" ")[0] in options), "")
    engines = _engines_with(name)
    takes_flags = any(parameter.name == "engine_flags" for parameter in command.params)
    if engines and (takes_flags or "--flags" in options):
        behind = (
            f"--engine {engines[0]} -- {name} ..." if takes_flags else f"--flags '{engines[0]}={name} ...'"
        )
        own = f"{own}, or " if own else ""
        return (
            f"{message}: it is a flag of {_listed(engines)}",
            f"write {own}it as the engine's own: {behind}",
        )
    return (message, f"write {own}") if own else None


def _engines_with(flag: str) -> list[str]:
    """The engines that have a flag."""
    from farspan.engines.registry import all_engines

    return [engine.name for engine in all_engines() if flag in engine.flag_names()]


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
