"""The store: a run folder with `run.json` (what was run, where), `requests.jsonl` (one line a finished request),
`sent.jsonl` (one line a request that left) and `environment.json` (every start's versions, machine, server settings
and plan).

A line is on disk before the next request of its worker starts, so a run that is killed loses only what was
under way. A line that a crash tore in half is dropped when the run is read or gone on with.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from farspan.errors import InputError
from farspan.measurement.http.client import Lag
from farspan.measurement.http.request_status import Status
from farspan.measurement.http.target import ServerInfo
from farspan.measurement.runs.environment import describe_client, read_document
from farspan.measurement.runs.job import Job, LoadPhase
from farspan.measurement.runs.result import Gaps, Result

FORMAT = 1
INFO_FILE = "run.json"
RESULTS_FILE = "requests.jsonl"
ENVIRONMENT_FILE = "environment.json"
SENT_FILE = "sent.jsonl"
IMPORTED_TASK = "imported"  # of a run that another tool measured
_DRAFT_FILE = "run.tmp"
_PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True, slots=True)
class Identity:
    """What every request of one run has in common; a run can only be resumed with the same.

    `corpus` is a hash of the user's own text, empty for built-in text.
    """

    model: str
    api: str
    prompt_as: str
    task: str
    seed: int
    ignore_eos: bool
    corpus: str = ""


@dataclass(frozen=True, slots=True)
class RunStart:
    """One start of a run: when, with what, on which server, in which environment."""

    time: str
    arguments: dict[str, Any]
    server: ServerInfo
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The contents of `run.json`: what the run is, and every start of it, the first one first."""

    identity: Identity
    starts: tuple[RunStart, ...]
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Run:
    """A run read back: the latest result of every job, in the order the jobs first finished."""

    folder: Path
    info: RunInfo
    results: tuple[Result, ...] = ()


def new_start(arguments: dict[str, Any], server: ServerInfo) -> RunStart:
    """Describe a start that happens now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return RunStart(now, arguments, server, describe_client())


def keep_latest(results: Iterable[Result]) -> tuple[Result, ...]:
    """Keep the latest result of every job: a request sent again replaces its earlier try."""
    latest: dict[Job, Result] = {}
    for result in results:
        latest[result.job] = result
    return tuple(latest.values())


def load_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: The folder is not a run, was written by another format, or is damaged before its last
            line.
    """
    info = load_info(folder)
    path = folder / RESULTS_FILE
    return Run(folder, info, keep_latest(_read_lines(path)) if path.exists() else ())


def load_info(folder: Path) -> RunInfo:
    """Read `run.json`.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    path = folder / INFO_FILE
    if not path.is_file():
        why = f"is not a run: it holds no {INFO_FILE}" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {why}", "name a folder that farspan bench wrote")
    try:
        document = orjson.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise InputError(
                f"{path} has format {document['format']}, not {FORMAT}", "use the farspan that wrote it"
            )
        starts = tuple(
            RunStart(**start | {"server": ServerInfo(**start["server"])}) for start in document["starts"]
        )
        return RunInfo(Identity(**document["identity"]), starts)
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error})", "restore it, or start a new run") from error


class RunStore:
    """An open run folder that results are added to. Close it, or use it as a context manager.

    `results` holds what earlier starts of the run finished. `add` may be called from any thread.
    """

    def __init__(self, folder: Path, info: RunInfo, results: tuple[Result, ...]) -> None:
        self.folder = folder
        self.info = info
        self.results = list(results)
        self._lock = threading.Lock()
        self._file = (folder / RESULTS_FILE).open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise InputError(
                f"another farspan is writing to {folder}", "wait for it, or pass another --run"
            ) from error
        _drop_torn_tail(folder / RESULTS_FILE)
        self.times_sent = _count_sent(folder / SENT_FILE)
        self._sent = (folder / SENT_FILE).open("ab")
        _write_durably(folder / INFO_FILE, orjson.dumps(info, option=_PRETTY))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if isinstance(error, InputError):
            self._take_back()

    def add(self, result: Result) -> None:
        """Append one result and return when it is on disk.

        Raises:
            InputError: The disk is full, or the folder has gone.
        """
        self.add_all([result])

    def add_all(self, results: Sequence[Result]) -> None:
        """Append results in one go and return when they are on disk.

        Raises:
            InputError: The disk is full, or the folder has gone.
        """
        lines = b"".join(orjson.dumps(result) + b"\n" for result in results)
        with self._lock:
            try:
                self._file.write(lines)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                raise InputError(f"{self.folder} cannot be written ({error})", "free some space") from error
            self.results += results

    def note_sent(self, job: Job) -> None:
        """Note that a request leaves, so that a later start knows of those that were under way when this one ended.

        Nothing waits for the disk: a killed process loses no note.

        Raises:
            InputError: The disk is full, or the folder has gone.
        """
        try:
            self._sent.write(orjson.dumps(job) + b"\n")
            self._sent.flush()
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written ({error})", "free some space") from error

    def keep_environment(self, environment: dict[str, Any]) -> None:
        """Add this start's environment to those of the starts before it."""
        path = self.folder / ENVIRONMENT_FILE
        earlier = read_document(path)
        starts = earlier.get("starts") if isinstance(earlier, dict) else None
        kept = starts if isinstance(starts, list) else []
        entry = {"time": self.info.starts[-1].time, **environment}
        _write_durably(path, orjson.dumps({"starts": [*kept, entry]}, option=_PRETTY))

    def latest(self) -> tuple[Result, ...]:
        """Return the latest result of every job."""
        return keep_latest(self.results)

    def _take_back(self) -> None:
        """Leave no folder behind that a corrected command would then find in its way: one made by this start, in which
        nothing was measured.
        """
        ours = {INFO_FILE, RESULTS_FILE, ENVIRONMENT_FILE, SENT_FILE}
        if self.results or len(self.info.starts) > 1 or {path.name for path in self.folder.iterdir()} - ours:
            return
        for name in ours:
            (self.folder / name).unlink(missing_ok=True)
        self.folder.rmdir()

    def close(self) -> None:
        """Close the files; results stay."""
        with self._lock:
            self._file.close()
            self._sent.close()


def open_run(folder: Path, identity: Identity, start: RunStart, *, resume: bool = False) -> RunStore:
    """Create a run folder, or go on with one.

    Args:
        folder: Made when it is missing.
        identity: What every request has in common.
        start: This start.
        resume: Go on with the run in `folder`; an empty folder begins a new one.

    Raises:
        InputError: The folder holds something and `resume` is false, or holds a run with another identity.
    """
    earlier: Run | None = None
    if not _is_blank(folder):
        if not resume:
            raise InputError(
                f"{folder} is not empty",
                "pass --resume to go on with the run in it, or another folder with --run",
            )
        earlier = load_run(folder)
        check_identity(folder, earlier.info.identity, identity)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error})", "pass another folder with --run") from error
    starts = (*earlier.info.starts, start) if earlier else (start,)
    return RunStore(folder, RunInfo(identity, starts), earlier.results if earlier else ())


def _is_blank(folder: Path) -> bool:
    """Tell whether a folder is missing, empty, or all that a run killed in its first moment leaves."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    return all(
        entry.name == _DRAFT_FILE or (entry.name in (RESULTS_FILE, SENT_FILE) and entry.stat().st_size == 0)
        for entry in folder.iterdir()
    )


def check_identity(folder: Path, there: Identity, wanted: Identity) -> None:
    """Refuse to mix requests of different kinds in one run.

    Raises:
        InputError: The two differ.
    """
    was, now = asdict(there), asdict(wanted)
    differing = [f"{name} {was[name]!r}, not {now[name]!r}" for name in was if was[name] != now[name]]
    if differing:
        raise InputError(
            f"the run in {folder} has {'; '.join(differing)}",
            "resume it with the same, or pass another --run",
        )


def _read_lines(path: Path) -> list[Result]:
    data = path.read_bytes()
    complete, _, _torn = data.rpartition(b"\n")
    results: list[Result] = []
    for number, line in enumerate(complete.split(b"\n"), start=1):
        if not line:
            continue
        try:
            results.append(_read_result(orjson.loads(line)))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged at line {number} ({error})", "remove that line") from error
    return results


def _count_sent(path: Path) -> Counter[Job]:
    """Count how often each request has left; a line that a crash tore in half is left out, and cut off."""
    counts: Counter[Job] = Counter()
    if not path.exists():
        return counts
    _drop_torn_tail(path)
    for line in path.read_bytes().splitlines():
        try:
            document = orjson.loads(line)
            counts[Job(**document | {"phase": LoadPhase(document["phase"])})] += 1
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error})", "remove it: only --resume needs it") from error
    return counts


_RESULT_FIELDS = frozenset(f.name for f in fields(Result))


def _read_result(document: dict[str, Any]) -> Result:
    values = {name: value for name, value in document.items() if name in _RESULT_FIELDS}
    if "company" in document:  # what `most_at_once` was called
        values["most_at_once"] = document["company"]
    gaps = values["itl_s"]
    values["itl_s"] = None if gaps is None else Gaps(**gaps)
    values["status"] = Status(values["status"])
    values["labels"] = tuple(values["labels"])
    values["token_times_s"] = tuple(values["token_times_s"])
    values["phase"] = LoadPhase(values.get("phase", LoadPhase.MEASURED))
    lag = values.get("client_lag_s")
    values["client_lag_s"] = None if lag is None else Lag(**lag)
    return Result(**values)


def _drop_torn_tail(path: Path) -> None:
    """Cut off a last line without its end, so that the next line does not continue it."""
    with path.open("r+b") as file:
        data = file.read()
        end = data.rfind(b"\n") + 1
        if end != len(data):
            file.truncate(end)
            os.fsync(file.fileno())


def _write_durably(path: Path, data: bytes) -> None:
    """Replace a file so that a crash leaves the old one or the new one, never half of it."""
    draft = path.with_name(_DRAFT_FILE)
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
