"""Going on with a run by its folder alone: with the options it was last started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from farspan.errors import InputError
from farspan.measurement.http.client import Limits
from farspan.measurement.http.wire import Api, PromptAs
from farspan.measurement.lengths import parse_lengths
from farspan.measurement.options import TURN_TOKENS, BenchOptions
from farspan.measurement.runs.run_folder import IMPORTED_TASK, INFO_FILE, RunInfo, load_info
from farspan.measurement.shared_length import parse_shared_length


def read_last_options(run: Path) -> tuple[BenchOptions, dict[str, str]]:
    """Return the options a run was last started with, ready to go on, and its servers when it has several.

    Args:
        run: The run folder, or the folder of several servers' runs.

    Returns:
        The options, and each server's address by its name; none for a run of a single server.

    Raises:
        InputError: There is no run there, or another tool measured it.
    """
    if (run / INFO_FILE).is_file() or not run.is_dir():
        return _read_options(run, load_info(run)), {}
    parts = {path.parent.name: load_info(path.parent) for path in sorted(run.glob(f"*/{INFO_FILE}"))}
    if not parts:
        return _read_options(run, load_info(run)), {}
    in_order = sorted(parts, key=lambda name: parts[name].starts[0].time)
    first = parts[in_order[0]]
    return _read_options(run, first), {name: parts[name].starts[-1].server.url for name in in_order}


def _read_options(run: Path, info: RunInfo) -> BenchOptions:
    identity, had = info.identity, info.starts[-1].arguments
    if identity.task == IMPORTED_TASK:
        raise InputError(f"{run} was measured by another tool", "start a run of your own")
    if had.get("trace"):
        raise InputError(f"{run} is of a trace, which is sent at its times", "start another run")
    shared = had.get("shared_prefix")
    lengths, plan, prompts = had.get("length_distribution"), had.get("plan"), had.get("prompts")
    try:
        return BenchOptions(
            url=had["url"],
            run=run,
            contexts=tuple(had["contexts"]),
            lengths=parse_lengths(lengths) if lengths else None,
            requests=had["num_prompts"],
            shared_prefix=parse_shared_length(shared) if shared else None,
            group_size=had.get("group_size"),
            turns=had.get("turns"),
            turn_tokens=had.get("turn_tokens") or TURN_TOKENS,
            think_time_s=had.get("think_time_s") or 0.0,
            skip_cold=bool(had.get("skip_cold")),
            model=identity.model,
            depths=tuple(had["depths"]),
            repeats=had["repeats"],
            output_tokens=had["output_tokens"],
            concurrency=had["concurrency"],
            concurrencies=tuple(had.get("concurrencies") or ()),
            rate=had["rate"],
            burstiness=_read_burstiness(had),
            warmup=had["warmup"],
            cooldown=had["cooldown"],
            task=identity.task,
            corpus=had.get("corpus"),
            corpus_field=had.get("corpus_field"),
            tokenizer=had["tokenizer"],
            api=Api(identity.api),
            prompt_as=PromptAs(identity.prompt_as),
            prompts=Path(prompts) if prompts else None,
            seed=identity.seed,
            resume=True,
            in_order=had["in_order"],
            ignore_eos=identity.ignore_eos,
            extra_body=had["extra_body"],
            limits=Limits(**had["limits"]),
            plan=Path(plan) if plan and Path(plan).exists() else None,
            time_limit_s=had["time_limit_s"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{run / INFO_FILE} does not say what the run had ({error})",
            "give --url and --contexts again, as they were",
        ) from error


def _read_burstiness(had: dict[str, Any]) -> float:
    """Return the shape of the gaps; a run keeps none in a closed loop, where it is nothing, and for even gaps."""
    if had["burstiness"] is not None:
        return float(had["burstiness"])
    return 1.0 if had["rate"] is None else float("inf")
