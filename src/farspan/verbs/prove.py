"""From a model's name to a proof: engine after engine served, measured, examined, stopped, and one report."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

from farspan.errors import FarspanError, InputError
from farspan.launch.runtime import Runtime
from farspan.launch.serve import ServeWatcher
from farspan.launch.server_records import StateFolder
from farspan.launch.started_servers import find_key
from farspan.measurement.options import BenchOptions
from farspan.measurement.progress import Watcher
from farspan.prompts.corpus import open_corpus
from farspan.proof.keep_log import LOG_FILE
from farspan.proof.prove import ProofResult, run_prove
from farspan.proof.prove_options import ProvenEngine, ProveOptions
from farspan.reports.write_report import DEFAULT_FORMATS, Format
from farspan.sizes import format_tokens, parse_token_list, parse_tokens
from farspan.verbs.known_server import add_what_is_known, find_known_server, keep_log
from farspan.verbs.serve import prepare_server

_ENTRY = re.compile(
    r"(?:(?P<name>[a-z0-9][a-z0-9.-]*)=)?(?P<engine>[a-z]+)(?:@(?P<version>[0-9][\w.]*))?", re.ASCII
)

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class ProofCommands:
    """What a proof would run, one command after the other; nothing was started.

    Args:
        engines: By the engine's name in the campaign, its commands, or why there are none.
        report: The command of the report.
    """

    engines: Mapping[str, tuple[str, ...]]
    report: str

    @property
    def text(self) -> str:
        """All commands, ready to paste, under a comment line an engine."""
        parts = [f"# {name}\n" + "\n".join(lines) for name, lines in self.engines.items()]
        return "\n\n".join([*parts, f"# report\n{self.report}"])

    def to_json(self) -> dict[str, Any]:
        """The commands by engine, and that of the report."""
        return {"engines": {name: list(lines) for name, lines in self.engines.items()}, "report": self.report}


_LOAD_SUFFIX = "-at-once"
# SGLang shortens an answer so that up to seven tokens of the context are left.
KEPT_BY_ENGINES = 16


@overload
def prove(model: str = "", *, dry_run: Literal[True], **settings: Any) -> ProofCommands: ...
@overload
def prove(model: str = "", *, dry_run: Literal[False] = False, **settings: Any) -> ProofResult: ...
def prove(
    model: str = "",
    *,
    dry_run: bool = False,
    watcher: Watcher | None = None,
    start_watcher: ServeWatcher | None = None,
    **settings: Any,
) -> ProofResult | ProofCommands:
    """Prove that engines serve a model at some contexts: serve, measure, examine and stop one after the other.

    Every step done is on disk: after a kill the same call goes on. No server of it stays, however it ends.

    Args:
        model: A catalog name, a checkpoint's folder, or a hub id; empty with `url`: the server says what it serves.
        dry_run: Start nothing; return the commands.
        watcher: Its methods are called as a measurement goes on.
        start_watcher: Its methods are called as a server starts.
        settings: Everything that `prove_options` takes.

    Raises:
        InputError: Something given cannot be used, or no engine can be planned at all.
    """
    options = prove_options(model, **settings)
    if dry_run:
        return list_commands(options)
    return asyncio.run(run_prove(options, watcher=watcher, start_watcher=start_watcher))


def prove_options(
    model: str = "",
    *,
    contexts: str | Sequence[str | int] = (),
    engines: str | Sequence[str] = ("vllm", "sglang"),
    url: str = "",
    gpus: str = "detect",
    runtime: str = "docker",
    output: str | Path | None = None,
    depths: Sequence[float] = (0.1, 0.5, 0.9),
    repeats: int = 1,
    warmup: int = 0,
    output_tokens: str | int = 200,
    concurrency: int = 0,
    load_contexts: str | Sequence[str | int] | None = None,
    corpus: str | Path | None = None,
    corpus_field: str | None = None,
    tokenizer: str | Path | None = None,
    seed: int | None = None,
    ready_limit: float | None = None,
    retry_failed: bool = False,
    metrics_interval: float = 1.0,
    api_key: str | None = None,
    formats: Sequence[str | Format] = (),
    flags: Sequence[str] = (),
    python: Sequence[str] = (),
    image: Sequence[str] = (),
    port: int = 8000,
    state: StateFolder | None = None,
    **serving: Any,
) -> ProveOptions:
    """Read options as they are typed, and plan every engine's server; starts nothing.

    Args:
        model: A catalog name, a checkpoint's folder, or a hub id.
        contexts: Prompt lengths in tokens.
        engines: Such as "vllm,sglang"; an entry may name a version and itself: "old=vllm@0.12.0".
        url: Prove the server that is there instead: its address, or the name under which farspan started it.
        gpus: GPUs of this machine or of a node, such as "8xH200"; "none" for a CPU.
        runtime: "docker", "kubernetes" or "local".
        output: The campaign's folder; proof/ and the model's name when None.
        depths: Where the needle goes.
        repeats: Requests at each context and depth.
        warmup: Requests before them, at the first context, which are kept but do not count.
        output_tokens: Tokens of an answer.
        concurrency: After the requests that are alone, so many at once; 0 for none.
        load_contexts: Prompt lengths of those; the shortest of `contexts` when None.
        corpus: The prompts' text: a file, JSON lines, or a folder of such; built-in text when None.
        corpus_field: Of JSON records, the field that holds the text; "text" when None.
        tokenizer: The servers' tokenizer, where it is not found by itself.
        seed: Decides the prompts, the same for every engine.
        ready_limit: Longest start of a server, s.
        retry_failed: Try engines and requests again that failed before.
        metrics_interval: Seconds between readings of the engine's metrics; 0 reads none.
        api_key: With `url`, the server's key.
        formats: What the report is written as; HTML and Markdown when empty.
        flags, python, image: Engine flags, the Python that has the engine, its image; each for all engines, or for
            one as "NAME=VALUE".
        port: Port of the servers; 0 for a free one.
        state: Where the records of servers are.
        serving: Further arguments of `prepare_server`, the same for all engines.

    Raises:
        InputError: One of them cannot be used.
    """
    lengths = _read_tokens(contexts)
    if not lengths:
        raise InputError("nothing is to be proven", "give --contexts such as 2M,5M,10M")
    if model and url:
        raise InputError(f"{model} is named beside --url", "leave it out: the server says what it serves")
    if not model and not url:
        raise InputError("neither a model nor --url is given", "name a model, as farspan plan does")
    tokens = parse_tokens(str(output_tokens))
    open_corpus(corpus, corpus_field)  # what cannot be read is said before a server is started
    folder = Path(output) if output else Path("proof") / (_slug(model or url))
    if url:
        proven: tuple[ProvenEngine, ...] = (_server(url, folder, state),)
    else:
        mark = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=3).hexdigest()
        common = {
            "runtime": runtime, "gpus": gpus, "context": max(lengths) + tokens + KEPT_BY_ENGINES,
            "output_tokens": tokens, "port": port,
            **serving,
        }  # fmt: skip
        entries = _read_engines(engines)
        chosen: dict[str, dict[str, Any]] = {
            "engine_flags": {name: shlex.split(words) for name, words in _by_engine(flags, entries).items()},
            "python": _by_engine(python, entries),
            "image": _by_engine(image, entries),
        }
        proven = tuple(
            _prepare(
                name,
                model,
                {
                    **common,
                    "engine": engine,
                    "engine_version": version,
                    "name": f"prove-{re.sub('[^a-z0-9]+', '-', name)[:30]}-{mark}",
                    **{key: values[name] for key, values in chosen.items() if name in values},
                },
            )
            for name, (engine, version) in entries.items()
        )
    return ProveOptions(
        folder=folder,
        model=model or url,
        engines=proven,
        contexts=lengths,
        depths=tuple(depths),
        repeats=repeats,
        warmup=warmup,
        output_tokens=tokens,
        concurrency=concurrency,
        load_contexts=_read_tokens(load_contexts or ()),
        corpus=None if corpus is None else str(corpus),
        corpus_field=corpus_field,
        tokenizer=tokenizer,
        seed=seed,
        ready_limit_s=ready_limit,
        retry_failed=retry_failed,
        metrics_s=metrics_interval,
        api_key=api_key,
        formats=tuple(Format(form) for form in formats) or DEFAULT_FORMATS,
        state=state,
    )


def _prepare(name: str, model: str, settings: Mapping[str, Any]) -> ProvenEngine:
    try:
        return ProvenEngine(name, prepare_server(model, **settings).runtime)
    except FarspanError as error:
        return ProvenEngine(
            name, engine=settings["engine"], version=settings["engine_version"], refused=error
        )


def _server(url: str, folder: Path, state: StateFolder | None) -> ProvenEngine:
    """A server that is there already, with what farspan's record of it tells, where there is one."""
    record = find_known_server(url, state)
    if record is None:
        return ProvenEngine("server", url=url)

    def adapt(options: BenchOptions) -> BenchOptions:
        return add_what_is_known(options, record, lambda: folder / "server.plan.json")

    return ProvenEngine(
        "server",
        url=record.url,
        adapt=adapt,
        find_log=lambda run: keep_log(record, run),
        api_key=find_key(record) or None,
    )


def _read_engines(given: str | Sequence[str]) -> dict[str, tuple[str, str]]:
    """Read `NAME=ENGINE@VERSION` entries: name to engine and version."""
    entries: dict[str, tuple[str, str]] = {}
    for text in given.split(",") if isinstance(given, str) else given:
        match = _ENTRY.fullmatch(text.strip().lower())
        if match is None:
            raise InputError(
                f"{text!r} is no engine", "write vllm, vllm@0.24.0, or a name of yours: old=vllm@0.12.0"
            )
        engine, version = match["engine"], match["version"] or ""
        name = match["name"] or (f"{engine}-{version}" if version else engine)
        if name in entries:
            raise InputError(f"two engines are called {name}", f"name one of them: other={engine}")
        entries[name] = (engine, version)
    return entries


def _by_engine(given: Sequence[str], entries: Mapping[str, Any]) -> dict[str, str]:
    """Read values for all engines, or for one as NAME=VALUE; the latter come first."""
    for text in given:
        name, equals, _ = text.partition("=")
        # Variables are in capitals or have an underscore, flags begin with a dash, paths and images have a slash.
        if equals and name not in entries and _NAME.fullmatch(name):
            raise InputError(f"{name} is no engine of this proof", f"name one of {', '.join(entries)}")
    common = {name: text for text in given if text.partition("=")[0] not in entries for name in entries}
    own = {
        name: value
        for name, equals, value in (text.partition("=") for text in given)
        if equals and name in entries
    }
    return common | own


def list_commands(options: ProveOptions) -> ProofCommands:
    """List what a proof would run, in order."""
    seed = options.seed if options.seed is not None else secrets.randbits(31)
    suffixes = ("", _LOAD_SUFFIX) if options.concurrency else ("",)
    return ProofCommands(
        {engine.name: _list_commands(options, engine, seed) for engine in options.engines},
        shlex.join(
            [
                *("farspan", "report"),
                *(
                    f"{options.folder / one.name}{suffix}"
                    for one in options.engines
                    if one.refused is None
                    for suffix in suffixes
                ),
                *("-o", str(options.folder)),
            ]
        ),
    )


def _list_commands(options: ProveOptions, engine: ProvenEngine, seed: int) -> tuple[str, ...]:
    if engine.refused is not None:
        return (f"# cannot be started: {engine.refused}",)
    run = str(options.folder / engine.name)
    runtime = engine.runtime
    url = engine.url if runtime is None else _find_url(runtime)

    def bench(run: str, contexts: Sequence[int], depths: Sequence[float], *more: str) -> str:
        return shlex.join(
            [
                *("farspan", "bench", "--url", url, "--run", run, "--resume", "--in-order"),
                *("--contexts", ",".join(map(_write_tokens, contexts))),
                *("--depths", ",".join(f"{d:g}" for d in depths)),
                *("--output-tokens", str(options.output_tokens), "--seed", str(seed), *alike, *more),
            ]
        )

    # What a proof finds in the record of a server that it has started itself.
    tokenizer = options.tokenizer or ("" if runtime is None else runtime.launch.tokenizer)
    given = {"--tokenizer": tokenizer, "--corpus": options.corpus, "--corpus-field": options.corpus_field}
    alike = tuple(word for name, value in given.items() if value for word in (name, str(value)))
    by_hand = _ByHand.of(runtime, run)
    warm = ("--warmup", str(options.warmup)) if options.warmup else ()
    lines = [
        *by_hand.start,
        bench(run, options.contexts, options.depths, "--repeats", str(options.repeats), *warm),
    ]
    if options.concurrency:
        load = options.load_contexts or (min(options.contexts),)
        together = ("--repeats", str(options.concurrency), "--concurrency", str(options.concurrency))
        # A run of its own: what is in the other one already would not be sent again.
        lines.append(bench(run + _LOAD_SUFFIX, load, options.depths[:1], *together))
    return (*lines, *by_hand.end)


class _ByHand(NamedTuple):
    """What starts and what ends a server without farspan, the doctor's look at its log included."""

    start: tuple[str, ...] = ()
    end: tuple[str, ...] = ()

    @classmethod
    def of(cls, runtime: Runtime | None, run: str) -> _ByHand:
        """Work it out for one way to run a server; nothing for one that is there already."""
        if runtime is None:
            return cls()
        name, text, log = runtime.launch.name, runtime.text().rstrip("\n"), shlex.quote(f"{run}/{LOG_FILE}")
        ready = f"until curl --silent --fail --output /dev/null {_find_url(runtime)}/health; do sleep 5; done"
        if runtime.launch.runtime == "docker":
            return cls(
                (text, ready),
                (f"farspan doctor container:{name}", f"docker logs {name} >{log} 2>&1",
                 f"docker rm --force {name}"),
            )  # fmt: skip
        if runtime.launch.runtime == "kubernetes":
            port = runtime.launch.port
            chosen = f"--selector app.kubernetes.io/instance={name}"
            return cls(
                (f"kubectl apply --filename - <<'END'\n{text}\nEND",
                 f"kubectl rollout status deployment/{name} --timeout=3h",
                 f"kubectl port-forward service/{name} {port}:{port} &",
                 ready),
                (f"farspan doctor pod:{name}", f"kubectl logs {chosen} --tail=-1 >{log}",
                 f"kubectl delete deployment,service {chosen}", "kill %1; wait"),
            )  # fmt: skip
        began = shlex.quote(f"{run}.log")
        return cls(
            (f"mkdir -p {shlex.quote(str(Path(run).parent))}", f"{text} >{began} 2>&1 &", ready),
            (f"farspan doctor {began}", "kill %1; wait", f"cp {began} {log}"),
        )


def _write_tokens(tokens: int) -> str:
    """Write a length as it can be read back."""
    text = format_tokens(tokens)
    return text if "," not in text else str(tokens)


def _find_url(runtime: Runtime) -> str:
    launch = runtime.launch
    return f"http://localhost:{launch.port}" if launch.runtime == "kubernetes" else launch.url


def _read_tokens(given: str | Sequence[str | int]) -> tuple[int, ...]:
    if isinstance(given, str):
        return parse_token_list(given)
    return tuple(dict.fromkeys(parse_tokens(str(length)) for length in given))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text.rstrip("/").rpartition("/")[2]).strip("-") or "server"
