"""The server of a measurement in a campaign: started, ended with it, and what became of it noted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from farspan.errors import FarspanError
from farspan.launch.launch_spec import Launch
from farspan.launch.runtime import IfExists, Runtime
from farspan.launch.serve import ServedModel, ServeWatcher, describe_flags, serving
from farspan.launch.server_records import StateFolder
from farspan.launch.start_watch import StartError
from farspan.proof.campaign import Campaign, EngineProgress
from farspan.proof.keep_log import keep_log
from farspan.proof.log_findings import examine_kept_log, record_finding

# How long a server whose connections broke may take to be gone.
_ENDING_S = 3.0


def note_start(campaign: Campaign, progress: EngineProgress, launch: Launch) -> None:
    """Note that a server is about to be started, and as what."""
    progress.engine, progress.version = launch.engine.name, launch.version
    progress.flags = describe_flags(launch)
    progress.planned_start_s = launch.expected.total_s
    progress.starts += 1
    campaign.save()


@asynccontextmanager
async def serving_measured(
    campaign: Campaign,
    progress: EngineProgress,
    runtime: Runtime,
    run: Path,
    *,
    state: StateFolder,
    if_exists: IfExists = IfExists.REPLACE,
    ready_limit_s: float | None = None,
    watcher: ServeWatcher,
) -> AsyncIterator[ServedModel]:
    """Start a server, note how its start went, and keep its log in the run's folder when it is ended with the block.

    A server that ends by itself while it is measured is an error, whatever the requests made of it.

    Args:
        campaign: It is saved once the server answers.
        progress: Where the start is noted.
        runtime: What runs.
        run: The folder of the measurement.
        state, if_exists, ready_limit_s, watcher: As `serving` takes them.

    Raises:
        StartError, LaunchError, InputError: See `serving`.
    """
    async with serving(
        runtime,
        state=state,
        if_exists=if_exists,
        keep_found=False,
        ready_limit_s=ready_limit_s,
        watcher=watcher,
    ) as served:
        progress.ready_s = served.report.ready_s
        progress.compared = [asdict(row) for row in served.report.compared]
        campaign.save()
        try:
            try:
                yield served
            except FarspanError:
                await _raise_if_ended(served)
                raise
            if progress.right is False:
                await _raise_if_ended(served)
        finally:
            keep_log(served, run)


async def _raise_if_ended(served: ServedModel) -> None:
    """Say that the server is gone, where it is: that is why requests failed.

    Raises:
        StartError: It has ended.
    """
    with suppress(TimeoutError):
        await asyncio.wait_for(served.wait_for_end(), _ENDING_S)


def note_failure(campaign: Campaign, progress: EngineProgress, error: FarspanError, run: Path) -> None:
    """Note why an engine is not measured, with what the log in the run's folder says of it where nothing else does."""
    if not progress.findings:
        progress.findings = examine_kept_log(run)
    progress.failed, progress.fix = error.message, error.fix
    campaign.save()


def note_failed_start(progress: EngineProgress, error: StartError, log: Path, kept: Path) -> StartError:
    """Note what the doctor found in the log of a start that failed, and keep the log.

    Args:
        progress: Where the findings go.
        error: Why it failed.
        log: The server's log; it need not be there.
        kept: Where it is kept: beside the run's folder, which a later try needs empty.

    Returns:
        The same error, with the log's last line where nothing was found in it.
    """
    progress.findings = [record_finding(finding) for finding in error.findings]
    if log.exists():
        shutil.copyfile(log, kept)
    if error.findings or not error.tail:
        return error
    return StartError(f"{error.message}: {error.tail[-1].strip()}", error.fix, error.tail)
