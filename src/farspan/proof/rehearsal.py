"""A rehearsal: one rank of a deployment served alone, measured, and held against its plan, step by step.

Every step that is done is on disk; a rehearsal that was killed is gone on with by the same command. However it ends, no
server of it stays.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from farspan.engines.engine import Engine
from farspan.errors import FarspanError, NetworkError
from farspan.launch.launch_spec import Launch
from farspan.launch.runtime import Runtime
from farspan.launch.serve import ServeWatcher
from farspan.launch.server_records import StateFolder
from farspan.launch.start_watch import StartError
from farspan.measurement.observe.engine_observer import EngineObserver
from farspan.measurement.options import BenchOptions
from farspan.measurement.progress import Watcher
from farspan.measurement.run import run_bench
from farspan.measurement.runs.job import Job
from farspan.models.shard.rank_config import RankShard
from farspan.models.shard.write_shard import FIRST_WORD_ID, SHARD_FILE, describe_shard, write_shard
from farspan.planner.request import PlanRequest
from farspan.prompts.random_prompt import RandomPrompt
from farspan.proof.campaign import Campaign, EngineProgress, Step
from farspan.proof.campaign_server import note_failed_start, note_failure, note_start, serving_measured
from farspan.proof.log_findings import examine_kept_log
from farspan.proof.write_plan import write_context_plan

RANK = "rank"
SHARD_FOLDER = "shard"
PLAN_FILE = "rank.plan.json"
_READY_FILE = "ready.json"
# SGLang shortens an answer so that up to seven tokens of the context are left.
KEPT_BY_ENGINES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalOptions:
    """What to rehearse.

    Args:
        folder: Where everything of it goes.
        model: The model, as it was named.
        engine: The engine.
        shard: The rank.
        prepare: Decides what runs, once the rank's folder is there.
        deployment: The question about the whole deployment; None where nothing is planned.
        contexts: Prompt lengths in tokens.
        context: The longest request of the deployment, prompt and answer together.
        output_tokens: Tokens of an answer.
        repeats: Prompts of each length.
        warmup: Prompts before those that count, of the shortest length: kernels are compiled for them.
        seed: Decides the prompts; None takes a fresh one, or the rehearsal's own.
        toy: Why it is a toy, in words; empty when the rank is of its full size.
        ready_limit_s: Longest start; None for three times the planned one and ten minutes.
        retry_failed: Whether a start, or prompts, that failed before are tried again.
        metrics_s: Seconds between readings of the engine's metrics; 0 for none.
        state: Where the records of servers are; the user's own folder when None.
        settings: What else a rehearsal can only be gone on with under the same.
    """

    folder: Path
    model: str
    engine: Engine
    shard: RankShard
    prepare: Callable[[Path], Runtime]
    deployment: PlanRequest | None
    contexts: tuple[int, ...]
    context: int
    output_tokens: int = 32
    repeats: int = 1
    warmup: int = 1
    seed: int | None = None
    toy: str = ""
    ready_limit_s: float | None = None
    retry_failed: bool = False
    metrics_s: float = 1.0
    state: StateFolder | None = None
    settings: Mapping[str, Any]

    @property
    def run(self) -> Path:
        """The folder of the prompts' run, and of the server's log."""
        return self.folder / RANK

    @property
    def shard_folder(self) -> Path:
        """The rank's folder."""
        return self.folder / SHARD_FOLDER

    def all_settings(self) -> dict[str, Any]:
        """What a rehearsal can only be gone on with under the same."""
        return {
            **self.settings,
            "model": self.model,
            "engine": self.engine.name,
            "division": self.shard.division.text,
            "contexts": self.contexts,
            "context": self.context,
            "output_tokens": self.output_tokens,
            "repeats": self.repeats,
            "warmup": self.warmup,
        }


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What was done.

    Args:
        options: What was asked.
        launch: What was started.
        progress: How far it came.
        phases: The phases of the start: `name`, `planned_s`, `took_s`.
    """

    options: RehearsalOptions
    launch: Launch
    progress: EngineProgress
    phases: tuple[Mapping[str, Any], ...] = ()


async def run_rehearsal(
    options: RehearsalOptions,
    *,
    watcher: Watcher | None = None,
    start_watcher: ServeWatcher | None = None,
) -> Rehearsed:
    """Write the rank's folder, serve it, measure it, examine its log. What is done already is not done again.

    Args:
        options: What to rehearse.
        watcher: Its methods are called as the measurement goes on.
        start_watcher: Its methods are called as the server starts.

    Raises:
        InputError: The folder cannot be used, or the server cannot be planned so.
        DoesNotFitError: The rank does not fit its GPU.
    """
    watcher, start_watcher = watcher or Watcher(), start_watcher or ServeWatcher()
    with Campaign(options.folder, options.all_settings(), options.seed) as campaign:
        if campaign.is_resumed:
            watcher.step(f"going on with {campaign.folder}")
        work = _Rehearsal(options, campaign, watcher, start_watcher)
        await work.run()
        return Rehearsed(options, work.launch, work.progress, work.phases)


class _Rehearsal:
    """The work on one open folder."""

    launch: Launch

    def __init__(
        self, options: RehearsalOptions, campaign: Campaign, watcher: Watcher, start_watcher: ServeWatcher
    ) -> None:
        self.options = options
        self.campaign = campaign
        self.watcher = watcher
        self.start_watcher = start_watcher
        self.state = options.state or StateFolder()
        self.progress = campaign.progress(RANK)
        self.phases: tuple[Mapping[str, Any], ...] = ()

    async def run(self) -> None:
        """Do what is not done yet; what fails is noted."""
        options, progress = self.options, self.progress
        if options.retry_failed and progress.is_over and not progress.good:
            progress.forget_failure()
        await asyncio.to_thread(self._write_shard)
        runtime = options.prepare(options.shard_folder)
        self.launch = runtime.launch
        if progress.is_over:
            self.watcher.step("measured before")
        else:
            try:
                if Step.MEASURED not in progress.steps:
                    await self._serve(runtime)
                progress.findings = examine_kept_log(options.run)
                self.campaign.done(progress, Step.EXAMINED)
            except StartError as error:
                log = self.state.log_path(self.launch.name)
                self._fail(note_failed_start(progress, error, log, start_log(options)))
            except FarspanError as error:
                self._fail(error)
        path = options.run / _READY_FILE
        if path.is_file():
            self.phases = tuple(json.loads(path.read_bytes()))

    def _write_shard(self) -> None:
        """Write the rank's folder, unless the one that is there is of the same rank and whole."""
        options = self.options
        note = options.shard_folder / SHARD_FILE
        if note.is_file() and json.loads(note.read_bytes()) == json.loads(
            json.dumps(describe_shard(options.shard))
        ):
            return
        self.watcher.step(f"writing {options.shard.division.text} of {options.shard.whole.name}")
        write_shard(options.shard, options.shard_folder)

    async def _serve(self, runtime: Runtime) -> None:
        """Start the rank, measure it, and end it."""
        options, launch = self.options, runtime.launch
        note_start(self.campaign, self.progress, launch)
        self.watcher.step(f"starting {launch.engine.title} {launch.version}: {launch.name}")
        async with serving_measured(
            self.campaign,
            self.progress,
            runtime,
            options.run,
            state=self.state,
            ready_limit_s=options.ready_limit_s,
            watcher=self.start_watcher,
        ) as served:
            phases = [
                {"name": phase.name, "planned_s": phase.planned_s, "took_s": phase.took_s}
                for phase in served.report.phases
            ]
            try:
                await self._measure(served.url, launch, served.record.describe_launch())
            finally:
                if options.run.is_dir():
                    (options.run / _READY_FILE).write_bytes(orjson.dumps(phases))

    async def _measure(self, url: str, launch: Launch, launched: Mapping[str, Any]) -> None:
        """Send a prompt of every length, alone; each request is on disk as it ends, and one that fails is a row."""
        options, progress = self.options, self.progress
        words = range(FIRST_WORD_ID, options.shard.spec.vocab_size)

        def make_prompt(job: Job) -> RandomPrompt:
            return RandomPrompt(job.context, words, job.prompt_seed)

        wanted = BenchOptions(
            url=url,
            run=options.run,
            contexts=options.contexts,
            depths=(0.5,),
            repeats=options.repeats,
            warmup=options.warmup,
            output_tokens=options.output_tokens,
            ignore_eos=True,
            seed=self.campaign.seed,
            in_order=True,
            resume=True,
            retry_failed=options.retry_failed,
            plan=write_context_plan(
                launch,
                (context + options.output_tokens for context in options.contexts),
                options.folder / PLAN_FILE,
            ),
            launched=launched,
            task="random ids",
        )
        observers = (EngineObserver(interval_s=options.metrics_s),) if options.metrics_s else ()
        outcome = await run_bench(wanted, watcher=self.watcher, make_prompt=make_prompt, observers=observers)
        if outcome.unsent:
            raise NetworkError(
                f"{outcome.stopped}, {outcome.unsent} prompts not sent",
                "read the log; then go on with --retry-failed",
            )
        progress.right = all(result.status.answered for result in outcome.results)
        self.campaign.done(progress, Step.MEASURED)

    def _fail(self, error: FarspanError) -> None:
        note_failure(self.campaign, self.progress, error, self.options.run)
        self.watcher.step(str(error))


def start_log(options: RehearsalOptions) -> Path:
    """Where the log of a start that failed is."""
    return options.folder / f"{RANK}.log"
