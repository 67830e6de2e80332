"""Hold a plan against what its server printed at start, figure by figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from farspan.diagnosis.examine import read_server_state
from farspan.diagnosis.sources import read_source
from farspan.engines.engine import Engine
from farspan.engines.logs.planned_server import gpu_of, request_of, spec_of
from farspan.engines.logs.server_state import Hints, ServerState
from farspan.engines.registry import find_served
from farspan.errors import InputError, NotFoundError
from farspan.hardware.node_spelling import parse_node
from farspan.launch.server_records import ServerRecord, StateFolder
from farspan.launch.started_servers import log_argv
from farspan.launch.validation import Validation, compare_start, nearest_plan
from farspan.planner.build_document import build_engine
from farspan.planner.document import PlanDocument
from farspan.planner.document_records import EngineRecord
from farspan.planner.plan import plan_engine
from farspan.verbs.known_server import find_known_server
from farspan.verbs.logs import ServerLog, logs

_FIX = "give MODEL and --gpus, or --plan with what farspan plan --json printed"
_OF_A_LOG = "that of the arguments in its log"


def validate(
    source: str | Path | Iterable[bytes],
    model: str = "",
    *,
    gpus: str = "",
    engine_version: str = "",
    plan: str | Path | PlanDocument | None = None,
    container: str = "",
    previous: bool = False,
    state: StateFolder | None = None,
) -> Validation:
    """Compare what a server printed at start with its plan: weights, KV memory, tokens, requests, graphs.

    The plan is the one given. Without it, and without model and GPUs, it is the one that a server of farspan was
    started by. Else it is what the planner says of the arguments in the log.

    Args:
        source: A log file, "-" for standard input, "container:NAME", "pod:[NAMESPACE/]NAME", the name or address of a
            server that farspan started, or the log's bytes in pieces.
        model: The model, where the log names only a folder.
        gpus: The GPUs, where the log does not name them: "8xH200".
        engine_version: The engine's version, where the log does not print it.
        plan: What `farspan plan --json` printed, as a file or a document.
        container: Of a pod with several containers, the one to read.
        previous: Of a pod, the log from before its last restart.
        state: Where the records of servers are; the user's own folder when None.

    Raises:
        InputError: There is no such log or server, or nothing to compare: the log prints no figure, or no plan can be
            made from it.
    """
    given = bool(model or gpus or engine_version)
    if plan is not None and given:
        raise InputError("a plan is given, and what to plan too", "give --plan, or MODEL and --gpus")
    gpu = parse_node(gpus).gpu if gpus else None
    hints = Hints(model=model, gpu=gpu.name if gpu else "", engine_version=engine_version)
    name, pieces, record = _open(source, container, state or StateFolder(), previous=previous)
    server = read_server_state(pieces, hints)
    engine = find_served(server.engine)
    if engine is None or not server.figures:
        raise InputError(
            f"there is nothing to compare: {name} has no figures of a start",
            "give the log of a vLLM or SGLang server from its beginning",
        )
    notes: tuple[str, ...] = ()
    if plan is not None:
        document = plan if isinstance(plan, PlanDocument) else PlanDocument.load(Path(plan))
        planned = "the one given" if isinstance(plan, PlanDocument) else str(plan)
        chosen = _of_document(document, planned, engine, server)
    elif record is not None and record.plan_document and not given:
        planned = f"the one that {record.name} was started by"
        document = PlanDocument.from_json(dict(record.plan_document), planned)
        chosen = _of_document(document, planned, engine, server)
    else:
        planned = _OF_A_LOG
        chosen, notes = _of_log(engine, server)
    figures = compare_start(engine, chosen, server.figures)
    if not figures:
        raise InputError(
            f"there is nothing to compare: {name} prints nothing that the plan predicts",
            "give the log of a start that got as far as its KV cache",
        )
    return Validation(
        source=name,
        engine=engine.name,
        version=server.version,
        planned_version=chosen.version or "",
        plan=planned,
        figures=figures,
        notes=(*((gpu.assumed,) if gpu and gpu.assumed else ()), *notes, *_notes_on_plan(chosen, server)),
    )


def _open(
    source: str | Path | Iterable[bytes], container: str, state: StateFolder, *, previous: bool
) -> tuple[str, Iterable[bytes], ServerRecord | None]:
    """The source's name, its log, and its record where farspan started it."""
    if not isinstance(source, str | Path):
        return "the log", source, None
    text = str(source)
    is_read = text == "-" or text.startswith(("container:", "pod:")) or Path(text).is_file()
    if is_read or isinstance(source, Path) or container or previous:
        return text, read_source(text, container=container, previous=previous), None
    if "://" in text:
        record = find_known_server(text, state)
        if record is None:
            raise NotFoundError(
                f"farspan did not start the server at {text}", "give its log, container:NAME or pod:NAME"
            )
        return record.name, ServerLog(record, log_argv(record, follow=False)).pieces(), record
    if "/" in text or "." in text:
        return text, read_source(text), None
    found = logs(text, state=state)
    return found.record.name, found.pieces(), found.record


def _of_document(document: PlanDocument, name: str, engine: Engine, server: ServerState) -> EngineRecord:
    """The plan of the engine at the context nearest to the server's.

    Raises:
        InputError: There is none.
    """
    answers = [plan for part in document.parts for plan in part.answers_of(engine.name)]
    chosen = nearest_plan(answers, server.context)
    if chosen is None:
        raise InputError(
            f"there is no plan of {engine.name}, which is what the log is of; the plan is {name}",
            f"plan it with --engine {engine.name} --json",
        )
    return chosen


def _of_log(engine: Engine, server: ServerState) -> tuple[EngineRecord, tuple[str, ...]]:
    """What the planner says of the server's own arguments, and what it had to guess.

    Raises:
        InputError: The log does not name enough, or the planner refuses it.
    """
    spec = spec_of(server)
    if spec is None:
        raise InputError(f"the log names a model that farspan does not know ({server.model or 'none'})", _FIX)
    gpu = gpu_of(server)
    if gpu is None:
        raise InputError("the log does not name the GPU", _FIX)
    for flag in (*engine.pipeline_flags, *engine.data_parallel_flags):
        if (server.number(flag.lstrip("-").replace("-", "_")) or 1) > 1:
            raise InputError(f"the log's server runs with {flag}, which a log alone does not plan", _FIX)
    request = request_of(server, logged_kv=False)
    if request is None:
        raise InputError(f"servers of {engine.name} are not planned from their logs", _FIX)
    plan = plan_engine(request, engine)
    notes = []
    if not (server.hints.gpu or server.gpu_name):
        notes.append(f"the log does not name the GPU: {gpu.name} is taken by its memory")
    if not request.engine_version:
        notes.append(f"the log does not name the version: {plan.version} is taken")
    return build_engine(request.context, plan), tuple(notes)


def _notes_on_plan(plan: EngineRecord, server: ServerState) -> Iterator[str]:
    if server.context and plan.context and server.context != plan.context:
        yield f"planned for {plan.context:,} tokens, and the server takes {server.context:,}"
    if plan.version and server.version and not server.version.startswith(plan.version):
        yield f"planned by the rules of {plan.version}, and the server is {server.version}"
    if not plan.ledger:
        yield "the plan is a sweep's, which has no ledger: it says nothing of graphs, nor how sure a figure is"
