"""Try an eight-GPU deployment out on one GPU: one rank of it served, measured, and held against its plan."""

from __future__ import annotations

import asyncio
import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from farspan.engines.engine import Engine
from farspan.engines.registry import get_engine
from farspan.errors import DoesNotFitError, InputError, MissingPackageError, UnsupportedError
from farspan.hardware.gpu import Node
from farspan.hardware.node_spelling import parse_node
from farspan.launch.runtime import Runtime
from farspan.launch.serve import ServeWatcher
from farspan.launch.server_records import StateFolder
from farspan.measurement.progress import Watcher
from farspan.models.config import read_model_config, spec_from_config
from farspan.models.shard.division import Division
from farspan.models.shard.rank_config import RankShard, shard_config
from farspan.models.shard.toy import toy_config
from farspan.models.shard.write_shard import write_shard
from farspan.models.spec import KvDtype, parse_kv_dtype
from farspan.planner.calibration_store import load_calibrations
from farspan.planner.engine_flags import parse_engine_flags
from farspan.planner.request import PlanRequest
from farspan.proof.rank_refusals import check_divided_by_options, explain_heavy_rank, is_too_heavy, name_rank
from farspan.proof.rehearsal import KEPT_BY_ENGINES, RehearsalOptions, run_rehearsal
from farspan.proof.rehearsal_report import RehearsalReport, report_rehearsal
from farspan.reports.write_report import Format
from farspan.sizes import format_bytes, format_tokens, parse_token_list, parse_tokens
from farspan.verbs.serve import prepare_server

_USUAL_CONTEXTS = (8000, 64_000, 256_000, 1_000_000)
_TOY_CONTEXTS = (1000, 2000, 4000)
_TOY_ENGINE = "builtin"
_USUAL_TP = 8
_FORMATS = (Format.HTML, Format.MARKDOWN, Format.JSON)


@dataclass(frozen=True, slots=True)
class RehearsalCommands:
    """What a rehearsal would run; nothing was started.

    Args:
        rank: What would be served, in words.
        differences: What is not as in the deployment.
        command: What would start it.
        contexts: Prompt lengths that would be sent.
        folder: Where everything would go.
        reason: Why nothing was started; empty where nobody asked for it.
    """

    rank: str
    differences: tuple[str, ...]
    command: str
    contexts: tuple[int, ...]
    folder: Path
    reason: str = ""

    @property
    def text(self) -> str:
        """All of it, ready to read."""
        lengths = ", ".join(map(format_tokens, self.contexts))
        lines = [
            f"# 1. write {self.rank} into {self.folder}/shard",
            *(f"#    {sentence}" for sentence in self.differences),
            "# 2. start the engine on it, and hold its memory against the plan",
            self.command,
            f"# 3. send prompts of {lengths} tokens as token ids, alone, and hold their times against the plan",
            f"# 4. stop it, read its log for what went wrong, and write {self.folder}/report.html",
        ]
        return "\n".join(lines)

    @property
    def exit_code(self) -> int:
        """0 where it was asked for, 2 where nothing could be started."""
        return 2 if self.reason else 0

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "rank": self.rank,
            "differences": list(self.differences),
            "command": self.command,
            "contexts": list(self.contexts),
            "folder": str(self.folder),
            "nothing_started": self.reason,
        }


@overload
def rehearse(model: str, *, dry_run: Literal[True], **settings: Any) -> RehearsalCommands: ...
@overload
def rehearse(
    model: str, *, dry_run: bool = False, **settings: Any
) -> RehearsalReport | RehearsalCommands: ...
def rehearse(
    model: str,
    *,
    dry_run: bool = False,
    calibrate: bool = False,
    formats: Sequence[str | Format] = (),
    watcher: Watcher | None = None,
    start_watcher: ServeWatcher | None = None,
    **settings: Any,
) -> RehearsalReport | RehearsalCommands:
    """Serve one rank of a deployment alone, send it prompts, and hold memory and times against the plan.

    Every step done is on disk: after a kill the same call goes on. No server of it stays, however it ends.

    Args:
        model: A catalog name, a config.json, its folder, or a hub id; no weights are needed.
        dry_run: Start nothing; return what would run.
        calibrate: Keep what was fitted where `plan` finds it on this machine.
        formats: What the report is written as; HTML, Markdown and JSON when empty.
        watcher: Its methods are called as the measurement goes on.
        start_watcher: Its methods are called as the server starts.
        settings: Everything that `rehearsal_options` takes.

    Returns:
        What it has shown; or what would run, where nothing was to be started, or this machine has no GPU.

    Raises:
        UnsupportedError: The model cannot be divided so, or an engine cannot run it; the message says which size works.
        InputError: Something given cannot be used.
        DoesNotFitError: The rank does not fit its GPU.
    """
    # A calibration is of what the planner says without one.
    settings["no_calibration"] = calibrate or settings.get("no_calibration", False)
    options = rehearsal_options(model, **settings)
    reason = ""
    if not dry_run and options.deployment is not None and not _has_gpu():
        reason = "this machine has no GPU: nothing was started"
    if dry_run or reason:
        try:
            return _list_commands(options, reason)
        except MissingPackageError:  # what would run is told where the engine is not installed, too
            settings["engine_version"] = options.engine.newest_version
            return _list_commands(rehearsal_options(model, **settings), reason)
    done = asyncio.run(run_rehearsal(options, watcher=watcher, start_watcher=start_watcher))
    chosen = tuple(Format(form) for form in formats) or _FORMATS
    return report_rehearsal(done, formats=chosen, keep_calibration=calibrate)


def rehearsal_options(
    model: str,
    *,
    engine: str | Engine = "vllm",
    tp: int | None = None,
    ep: int = 1,
    pp: int = 1,
    contexts: str | Sequence[str | int] | None = None,
    context: str | int | None = None,
    gpus: str | Node = "detect",
    kv_dtype: str | KvDtype = KvDtype.AUTO,
    weights: str | None = None,
    output_tokens: str | int = 32,
    repeats: int = 1,
    warmup: int = 1,
    engine_version: str = "",
    accept_nearest_version: bool = False,
    engine_flags: Sequence[str] = (),
    force: bool = False,
    python: str = "",
    port: int = 0,
    output: str | Path | None = None,
    toy: bool = False,
    seed: int | None = None,
    ready_limit: float | None = None,
    retry_failed: bool = False,
    metrics_interval: float = 1.0,
    no_calibration: bool = False,
    offline: bool = False,
    ignore_fields: Sequence[str] = (),
    state: StateFolder | None = None,
) -> RehearsalOptions:
    """Read what to rehearse as it is typed; starts nothing.

    Args:
        model: A catalog name, a config.json, its folder, or a hub id.
        engine: The engine, installed on this machine.
        tp: Tensor-parallel size of the deployment; the largest that the heads allow, up to 8 or the number of --gpus.
        ep: Ranks that whole experts are shared out over.
        pp: Pipeline stages; the first, which is as large as any, is rehearsed.
        contexts: Prompt lengths in tokens; 8k, 64k, 256k and 1M, as far as the model reaches, when None.
        context: Longest request of the deployment, prompt and answer together: what the server is started for, and the
            times are extrapolated to. The longest of `contexts` when None.
        gpus: GPUs of the deployment: "8xH200", "detect", or a Node; the rank runs on one of this machine's.
        kv_dtype: Type of the KV cache.
        weights: As if the weights were kept so.
        output_tokens: Tokens of each answer.
        repeats: Prompts of each length.
        warmup: Prompts before those that count.
        engine_version: The engine's version; the installed one when empty.
        accept_nearest_version: Whether an unknown version is planned as the nearest.
        engine_flags: The engine's own flags, and NAME=VALUE for environment variables.
        force: Start although it does not fit, or a flag breaks the plan.
        python: The Python, or conda environment, that has the engine.
        port: Port of the server; 0 for a free one.
        output: The folder for everything; rehearsal/ and the names when None.
        toy: Run a small model of the same family on the CPU: the same steps, no GPU needed.
        seed: Decides the prompts.
        ready_limit: Longest start, in seconds.
        retry_failed: Try a start, or prompts, again that failed before.
        metrics_interval: Seconds between readings of the engine's metrics; 0 for none.
        no_calibration: Leave out what was calibrated on this machine.
        offline: Whether the Hugging Face hub may not be asked.
        ignore_fields: Unknown fields of the model's config that cannot change memory.
        state: Where the records of servers are.

    Raises:
        UnsupportedError: See `rehearse`.
        InputError: See `rehearse`.
    """
    named = _TOY_ENGINE if toy else engine
    chosen = get_engine(named) if isinstance(named, str) else named
    if not chosen.dummy_weight_flags:
        raise UnsupportedError(
            f"{chosen.title} reads weights in any case, and a rank alone has none",
            "rehearse with an engine that fills weights with numbers of its own",
        )
    answer = parse_tokens(str(output_tokens))
    node = None if toy else _node(gpus)
    config, name = read_model_config(model, weights=weights or "", allow_network=not offline)
    spec = spec_from_config(config, name, model, ignore_fields=tuple(ignore_fields))
    at_hand = max(1, (node.count if node is not None and node.count > 1 else _USUAL_TP * pp) // pp)
    ranks = tp if tp is not None else spec.largest_tp(at_hand)
    if toy:
        config, name = toy_config(config, ranks), f"toy of {name}"
    layers = None if pp == 1 else range(-(-spec.num_layers // pp))
    form = chosen.config_form(spec.architecture, engine_version)
    shard = shard_config(
        config,
        name,
        Division(ranks, ep, layers),
        form=form,
        ignore_fields=tuple(ignore_fields),
    )
    lengths, longest = _read_lengths(contexts, context, answer, shard, toy=toy)
    check_divided_by_options(chosen, flags := tuple(engine_flags))
    folder = Path(output) if output else _default_folder(name, chosen.name, shard)
    mark = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=3).hexdigest()
    common: dict[str, Any] = {
        "engine": chosen, "runtime": "local", "context": longest, "tp": 1, "output_tokens": answer,
        "kv_dtype": kv_dtype, "engine_version": engine_version, "accept_nearest_version": accept_nearest_version,
        "python": python, "port": port, "name": f"rehearse-{_slug(name)[:30]}-{mark}", "offline": offline,
        "ignore_fields": ignore_fields, "no_calibration": no_calibration, "force": force,
        "gpus": "none" if node is None else _one_of(gpus, node),
        "engine_flags": (*_rank_words(chosen, flags, on_gpu=node is not None), *flags),
    }  # fmt: skip

    def prepare(rank: Path) -> Runtime:
        try:
            return prepare_server(str(rank.resolve()), **common).runtime
        except (DoesNotFitError, InputError) as error:
            if isinstance(error, DoesNotFitError) and node is not None and is_too_heavy(shard, node.gpu):
                # The plan of the rank alone would name ranks to divide that one over.
                raise explain_heavy_rank(config, shard, node.gpu, form, ignore_fields) from error
            raise name_rank(error, shard) from error

    deployment = None
    if node is not None:
        deployment = PlanRequest(
            model=shard.whole,
            gpu=node.gpu,
            gpus=max(node.count, ranks * pp),
            tp=ranks,
            context=longest,
            kv_dtype=parse_kv_dtype(kv_dtype),
            engine_version=engine_version,
            accept_nearest_version=accept_nearest_version,
            engine_flags=parse_engine_flags((*flags, *_division_words(chosen, ep, pp))),
            output_tokens=answer,
            host_memory_bytes=node.host_memory_bytes,
            calibrations=() if no_calibration else load_calibrations(),
        )
    return RehearsalOptions(
        folder=folder,
        model=model,
        engine=chosen,
        shard=shard,
        prepare=prepare,
        deployment=deployment,
        contexts=lengths,
        context=longest,
        output_tokens=answer,
        repeats=repeats,
        warmup=warmup,
        seed=seed,
        toy="a small model of the same family, on the CPU" if toy else "",
        ready_limit_s=ready_limit,
        retry_failed=retry_failed,
        metrics_s=metrics_interval,
        state=state,
        settings={"kv_dtype": str(kv_dtype), "flags": list(flags), "weights": weights or ""},
    )


def _node(gpus: str | Node) -> Node:
    if isinstance(gpus, Node):
        return gpus
    try:
        return parse_node(gpus)
    except InputError as error:
        if gpus != "detect":
            raise
        raise InputError(
            f"there is no GPU to rehearse on ({error.message})",
            "name the deployment's, --gpus 8xH200, to see what would run; --toy runs the same steps on this CPU",
        ) from error


def _has_gpu() -> bool:
    """Whether this machine has a GPU, of whatever kind, known by name or not."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    try:
        parse_node("detect")
    except InputError:
        return False
    return True


def _one_of(gpus: str | Node, node: Node) -> str:
    """One GPU of that kind, as `serve` reads it."""
    return gpus if isinstance(gpus, str) and node.count == 1 else f"1x{node.gpu.name.partition(' (')[0]}"


def _rank_words(engine: Engine, flags: Sequence[str], *, on_gpu: bool) -> tuple[str, ...]:
    """What the engine is given beside the user's own flags: no weights, and a log with every part of its memory."""
    given = parse_engine_flags(flags)
    dummy = () if engine.dummy_weight_flags[0] in given else engine.dummy_weight_flags
    loud = tuple(
        f"{name}={value}" for name, value in engine.detailed_log.items() if on_gpu and name not in given
    )
    return (*dummy, *loud)


def _division_words(engine: Engine, ep: int, pp: int) -> tuple[str, ...]:
    """The flags of the deployment that say how it is divided."""
    words: tuple[str, ...] = engine.expert_parallel_words(ep) if ep > 1 else ()
    if pp > 1:
        if not engine.pipeline_flags:
            raise InputError(f"the {engine.name} engine has no pipeline stages", "drop --pp")
        words = (*words, engine.pipeline_flags[0], str(pp))
    return words


def _read_lengths(
    contexts: str | Sequence[str | int] | None,
    context: str | int | None,
    answer: int,
    shard: RankShard,
    *,
    toy: bool,
) -> tuple[tuple[int, ...], int]:
    """The prompt lengths, and the longest request."""
    room = shard.spec.max_position_embeddings - answer - KEPT_BY_ENGINES
    if isinstance(contexts, str) and contexts:
        lengths = parse_token_list(contexts)
    elif contexts:
        lengths = tuple(dict.fromkeys(parse_tokens(str(length)) for length in contexts))
    else:
        usual = _TOY_CONTEXTS if toy else _USUAL_CONTEXTS
        lengths = tuple(dict.fromkeys(min(length, room) for length in usual))
    longest = max(lengths) + answer + KEPT_BY_ENGINES if context is None else parse_tokens(str(context))
    if max(lengths) + answer > longest:
        raise InputError(
            f"prompts of {format_tokens(max(lengths))} and answers of {answer} tokens are longer than --context "
            f"{format_tokens(longest)}",
            "raise --context, or give shorter --contexts",
        )
    return tuple(sorted(lengths)), longest


def _default_folder(name: str, engine: str, shard: RankShard) -> Path:
    return Path("rehearsal") / f"{_slug(name)}-tp{shard.division.tp}-{engine}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower().rstrip("/").rpartition("/")[2]).strip("-") or "model"


def _list_commands(options: RehearsalOptions, reason: str = "") -> RehearsalCommands:
    """Say what would run; the rank's folder is written beside and forgotten."""
    shard = options.shard
    with tempfile.TemporaryDirectory() as folder:
        rank = Path(folder).resolve() / "shard"
        write_shard(shard, rank)
        command = options.prepare(rank).text().rstrip("\n").replace(str(rank), str(options.shard_folder))
    weights = f"{format_bytes(shard.weight_bytes)} of weights, which the engine makes up"
    what = f"one rank of {shard.whole.name} at {shard.division.text}, {weights}"
    return RehearsalCommands(what, shard.differences, command, options.contexts, options.folder, reason)
