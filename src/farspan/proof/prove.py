"""A proof as one campaign: engine after engine is served, measured, examined and stopped, and one report compares them.

Every step that is done is on disk; a campaign that was killed is gone on with by the same command. However it ends, no
server of it stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from farspan.errors import FarspanError, NetworkError
from farspan.launch.launch_spec import Launch
from farspan.launch.runtime import IfExists, Runtime
from farspan.launch.serve import ServeWatcher
from farspan.launch.server_records import StateFolder
from farspan.launch.start_watch import StartError
from farspan.launch.started_servers import find_key
from farspan.measurement.http.target import ask_server, check_lengths, normalise_url
from farspan.measurement.observe.engine_observer import EngineObserver
from farspan.measurement.options import BenchOptions
from farspan.measurement.progress import Watcher
from farspan.measurement.run import run_bench
from farspan.measurement.runs.bench_outcome import BenchOutcome
from farspan.measurement.runs.run_folder import INFO_FILE
from farspan.proof.campaign import STATE_FILE, Campaign, EngineProgress, Step
from farspan.proof.campaign_server import note_failed_start, note_failure, note_start, serving_measured
from farspan.proof.engine_table import describe_engine
from farspan.proof.log_findings import examine_kept_log
from farspan.proof.prove_options import ProvenEngine, ProveOptions
from farspan.proof.write_plan import write_context_plan
from farspan.reports.engine_rows import EngineRow
from farspan.reports.write_report import ReportFiles, ReportOptions, write_report

PLAN_FILE = "plan.json"


@dataclass(frozen=True, slots=True)
class ProofResult:
    """What a campaign has proven.

    Args:
        folder: Where everything is.
        engines: One row an engine, failures included.
        progress: The same as the campaign keeps it.
        report: The report's files.
    """

    folder: Path
    engines: tuple[EngineRow, ...]
    progress: tuple[EngineProgress, ...]
    report: ReportFiles

    @property
    def good(self) -> bool:
        """Whether every engine started, and answered every request right."""
        return all(engine.good for engine in self.engines)

    @property
    def exit_code(self) -> int:
        """0 when good, else 1."""
        return 0 if self.good else 1

    def to_json(self) -> dict[str, Any]:
        """The folder, the verdict, every engine and the report's files."""
        return {
            "folder": str(self.folder),
            "good": self.good,
            "engines": [
                {**asdict(progress), **asdict(row)}
                for row, progress in zip(self.engines, self.progress, strict=True)
            ],
            "report": self.report.to_json(),
        }


async def run_prove(
    options: ProveOptions,
    *,
    watcher: Watcher | None = None,
    start_watcher: ServeWatcher | None = None,
) -> ProofResult:
    """Prove every engine, one after the other, and write one report of all.

    Args:
        options: What to prove.
        watcher: Its methods are called as a measurement goes on.
        start_watcher: Its methods are called as a server starts.

    Raises:
        InputError: The folder cannot be used, or no engine can be planned at all.
        NetworkError: A server that is there already does not answer.
        InputError: It does not take the lengths.
    """
    watcher, start_watcher = watcher or Watcher(), start_watcher or ServeWatcher()
    refusals = [engine.refused for engine in options.engines if engine.refused is not None]
    if len(refusals) == len(options.engines):
        raise refusals[0]
    begun = (options.folder / STATE_FILE).exists()
    for engine in options.engines:
        if engine.runtime is None and engine.refused is None and not begun:
            # A server that is not there is no failed proof: the same command is right once it is started.
            server = await ask_server(normalise_url(engine.url), api_key=engine.api_key or options.api_key)
            check_lengths(server, options.contexts, options.output_tokens)
    with Campaign(options.folder, options.settings(), options.seed) as campaign:
        if campaign.is_resumed:
            watcher.step(f"going on with {campaign.folder}")
        for engine in options.engines:
            await _EngineProof(options, campaign, engine, watcher, start_watcher).run()
        progress = tuple(campaign.progress(engine.name) for engine in options.engines)
        rows = tuple(describe_engine(one, campaign.folder / one.name) for one in progress)
        report = await asyncio.to_thread(_write, options, rows)
        return ProofResult(campaign.folder, rows, progress, report)


def _write(options: ProveOptions, rows: Sequence[EngineRow]) -> ReportFiles:
    folders = [options.folder / row.name for row in rows]
    runs = [folder for folder in folders if (folder / INFO_FILE).is_file()]
    chosen = ReportOptions(title=Path(options.model).name, engines=tuple(rows))
    return write_report(runs, options.folder, formats=options.formats, options=chosen)


@dataclass(slots=True)
class _EngineProof:
    """The proof of one engine."""

    options: ProveOptions
    campaign: Campaign
    engine: ProvenEngine
    watcher: Watcher
    start_watcher: ServeWatcher
    progress: EngineProgress = field(init=False)
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.progress = self.campaign.progress(self.engine.name)
        self.folder = self.campaign.folder / self.engine.name

    async def run(self) -> None:
        """Do what is not done yet. What fails is noted, and the next engine's turn comes."""
        progress, name = self.progress, self.engine.name
        if self.options.retry_failed and progress.is_over and not progress.good:
            progress.forget_failure()
        if progress.is_over:
            failed = "" if progress.good else ", and not good: --retry-failed tries it again"
            self.watcher.step(f"{name}: done before{failed}")
            return
        self.watcher.step(f"{name}: {self._describe()}")
        try:
            if self.engine.refused is not None:
                progress.engine, progress.version = self.engine.engine, self.engine.version
                raise self.engine.refused
            if not {Step.MEASURED, Step.LOADED} <= set(progress.steps):
                if self.engine.runtime is None:
                    await self._measure_server()
                else:
                    await self._serve(self.engine.runtime)
            self._examine()
        except StartError as error:
            self._fail(
                note_failed_start(progress, error, self._start_log(), self.folder.with_name(f"{name}.log"))
            )
        except FarspanError as error:
            self._fail(error)

    def _describe(self) -> str:
        runtime = self.engine.runtime
        if self.engine.refused is not None:
            return "cannot be started"
        if runtime is None:
            return self.engine.url
        launch = runtime.launch
        return f"{launch.engine.name} {launch.version}, {launch.runtime}"

    def _start_log(self) -> Path:
        """The log of the server that was started."""
        assert self.engine.runtime is not None
        return self._state.log_path(self.engine.runtime.launch.name)

    @property
    def _state(self) -> StateFolder:
        return self.options.state or StateFolder()

    def _fail(self, error: FarspanError) -> None:
        note_failure(self.campaign, self.progress, error, self.folder)
        self.watcher.step(f"{self.engine.name}: {error}")

    async def _serve(self, runtime: Runtime) -> None:
        """Start the server, measure it, and end it."""
        launch = runtime.launch
        note_start(self.campaign, self.progress, launch)
        # What a kill leaves behind on this machine is on its way out; in a cluster it stays, its weights loaded.
        stayed = launch.runtime == "kubernetes" and runtime.find(self._state) == runtime.fingerprint()
        async with serving_measured(
            self.campaign,
            self.progress,
            runtime,
            self.folder,
            state=self._state,
            if_exists=IfExists.REUSE if stayed else IfExists.REPLACE,
            ready_limit_s=self.options.ready_limit_s,
            watcher=self.start_watcher,
        ) as served:
            await self._measure(
                BenchOptions(
                    url=served.url,
                    run=self.folder,
                    tokenizer=served.record.tokenizer or None,
                    plan=self._plan(launch),
                    launched=served.record.describe_launch(),
                    api_key=find_key(served.record) or None,
                )
            )

    def _plan(self, launch: Launch) -> Path | None:
        """Write the plan of the contexts measured; None where nothing was planned, or no time."""
        path = self.campaign.folder / f"{self.engine.name}.{PLAN_FILE}"
        return write_context_plan(launch, (*self.options.contexts, *self._load_contexts), path)

    @property
    def _load_contexts(self) -> tuple[int, ...]:
        if not self.options.concurrency:
            return ()
        return self.options.load_contexts or (min(self.options.contexts),)

    async def _measure_server(self) -> None:
        """Measure a server that is there already; it stays."""
        progress = self.progress
        wanted = self.engine.adapt(
            BenchOptions(
                url=self.engine.url,
                run=self.folder,
                contexts=tuple(dict.fromkeys((*self.options.contexts, *self._load_contexts))),
                api_key=self.engine.api_key or self.options.api_key,
            )
        )
        server = await ask_server(normalise_url(wanted.url), api_key=wanted.api_key)
        progress.engine, progress.version = server.owned_by or "", server.version or ""
        progress.flags = str(wanted.launched.get("flags") or "")
        progress.ready_s = wanted.launched.get("ready_s")
        self.campaign.save()
        try:
            await self._measure(wanted)
        finally:
            if self.folder.is_dir() and (why := self.engine.find_log(self.folder)):
                self.watcher.step(f"{self.engine.name}: its log is not in the report: {why}")

    async def _measure(self, alike: BenchOptions) -> None:
        """Send every context alone, then so many at once; each request is on disk as it ends."""
        options, progress = self.options, self.progress
        alone = replace(
            alike,
            contexts=options.contexts,
            depths=options.depths,
            repeats=options.repeats,
            warmup=options.warmup,
            output_tokens=options.output_tokens,
            corpus=options.corpus,
            corpus_field=options.corpus_field,
            tokenizer=options.tokenizer or alike.tokenizer,
            seed=self.campaign.seed,
            in_order=True,
            resume=True,
            retry_failed=options.retry_failed,
        )
        outcome: BenchOutcome | None = None
        if Step.MEASURED not in progress.steps:
            outcome = await self._bench(alone)
            progress.right = outcome.good
            self.campaign.done(progress, Step.MEASURED)
        if Step.LOADED not in progress.steps:
            if options.concurrency:
                together = replace(
                    alone,
                    contexts=self._load_contexts,
                    depths=options.depths[:1],
                    repeats=1,
                    warmup=0,
                    concurrencies=(options.concurrency,),
                )
                outcome = await self._bench(together)
                progress.right = outcome.good
            self.campaign.done(progress, Step.LOADED)

    async def _bench(self, wanted: BenchOptions) -> BenchOutcome:
        observers = (EngineObserver(interval_s=self.options.metrics_s),) if self.options.metrics_s else ()
        outcome = await run_bench(wanted, watcher=self.watcher, observers=observers)
        if outcome.unsent:
            raise NetworkError(
                f"{outcome.stopped}, {outcome.unsent} requests not sent",
                "read the log; then go on with --retry-failed",
            )
        return outcome

    def _examine(self) -> None:
        """Read the server's log for what went wrong."""
        self.progress.findings = examine_kept_log(self.folder)
        self.campaign.done(self.progress, Step.EXAMINED)
