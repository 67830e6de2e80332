"""Which line of a log means what: the words each engine version prints, and the events they stand for.

Read from the sources of vLLM 0.12.0 to 0.33.0 and SGLang 0.5.6.post2 to 0.5.23. Both use Hugging Face's and
tqdm's words while they load weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from farspan.diagnosis.log_line import ParsedLine
from farspan.diagnosis.printed_args import read_dict, read_pairs
from farspan.diagnosis.records import Arguments, EngineVersion, Event, Figure, Progress, StartPhase

Make = Callable[[ParsedLine, "re.Match[str]"], list[Event]]


class LinePattern(NamedTuple):
    """One kind of line: bytes it must contain, the pattern it must match, and the events it makes."""

    needle: bytes
    pattern: re.Pattern[str]
    make: Make


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _phase(
    phase: StartPhase,
    *,
    done: bool = False,
    engine: str = "",
    figure: str = "",
    seconds_figure: str = "",
) -> Make:
    """A phase line. Groups `percent`, `seconds` and `gib` are read where the pattern has them."""

    def make(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
        groups = match.groupdict()
        read = {
            name: _number(groups[name])
            for name in ("percent", "seconds", "gib")
            if groups.get(name) is not None
        }
        events: list[Event] = [
            Progress(parsed.where, phase, done=done, text=parsed.text.strip()[:300], **read)
        ]
        if engine:
            events.insert(0, EngineVersion(parsed.where, engine))
        if figure and "gib" in read:
            events.append(Figure(parsed.where, figure, read["gib"]))
        if seconds_figure and "seconds" in read:
            events.append(Figure(parsed.where, seconds_figure, read["seconds"]))
        return events

    return make


def _figures(phase: StartPhase, *, done: bool, engine: str) -> Make:
    """A line of figures: every named group is one."""

    def make(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
        events: list[Event] = [EngineVersion(parsed.where, engine)] if engine else []
        events.append(Progress(parsed.where, phase, done=done, text=parsed.text.strip()[:300]))
        for name, text in match.groupdict().items():
            if text is not None:
                events.append(Figure(parsed.where, name, _number(text)))
        return events

    return make


def _version(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    return [EngineVersion(parsed.where, "vllm", match["version"])]


def _vllm_args(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    text = parsed.text[match.end() :]
    values = read_dict("{" + text) if match["brace"] == "{" else read_pairs(text)
    return [
        EngineVersion(parsed.where, "vllm"),
        Arguments(parsed.where, "vllm", values),
        Progress(parsed.where, StartPhase.CONFIG, text="arguments read"),
    ]


def _vllm_engine(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    values = read_pairs(parsed.text[match.end() :])
    if "max_seq_len" in values:
        values["max_model_len"] = values.pop("max_seq_len")
    return [
        EngineVersion(parsed.where, "vllm", match["version"]),
        Arguments(parsed.where, "vllm", values),
        Progress(parsed.where, StartPhase.ENGINE, text="engine process starts"),
    ]


def _sglang_args(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    return [
        EngineVersion(parsed.where, "sglang"),
        Arguments(parsed.where, "sglang", read_pairs(parsed.text[match.end() :])),
        Progress(parsed.where, StartPhase.CONFIG, text="arguments read"),
    ]


def _builtin_ready(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    return [
        EngineVersion(parsed.where, "builtin"),
        Figure(parsed.where, "max_model_len", _number(match["length"])),
        Progress(parsed.where, StartPhase.READY, done=True, text="answers requests"),
    ]


def _application_ready(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:  # noqa: ARG001
    """uvicorn's line: vLLM answers from here on; SGLang still warms up (it says later that it is fired up)."""
    if parsed.style == "sglang":
        return [EngineVersion(parsed.where, "sglang")]
    return [Progress(parsed.where, StartPhase.READY, done=True, text="answers requests")]


def _rule(needle: str, pattern: str, make: Make) -> LinePattern:
    return LinePattern(needle.encode(), re.compile(pattern), make)


_N = r"\d+(?:,\d{3})*(?:\.\d+)?"

_BUILTIN = "farspan built-in engine: "

RULES: tuple[LinePattern, ...] = (
    # Both engines: Hugging Face's progress bar over shards, tqdm's over graphs, uvicorn.
    _rule(
        "checkpoint shards:",
        r"Loading \S+ checkpoint shards:\s+(?P<percent>\d+)%",
        _phase(StartPhase.WEIGHTS),
    ),
    _rule("loading shards:", r"loading shards:\s+(?P<percent>\d+)%", _phase(StartPhase.WEIGHTS)),
    _rule("Capturing CUDA graphs", r"Capturing CUDA graphs.*?(?P<percent>\d+)%\|", _phase(StartPhase.GRAPHS)),
    _rule("Capturing batches", r"Capturing batches.*?(?P<percent>\d+)%\|", _phase(StartPhase.GRAPHS)),
    _rule("Application startup complete", r"Application startup complete", _application_ready),
    _rule(
        "Application shutdown complete",
        r"Application shutdown complete",
        _phase(StartPhase.SHUTDOWN, done=True),
    ),
    # farspan's own engine: `builtin.startlog`.
    _rule(
        f"{_BUILTIN}torch ",
        rf"^{_BUILTIN}torch \S+ loaded in (?P<seconds>{_N}) s",
        _phase(StartPhase.ENGINE, done=True, engine="builtin"),
    ),
    _rule(
        f"{_BUILTIN}weights of ",
        rf"^{_BUILTIN}weights of (?P<gib>{_N}) GiB loaded in (?P<seconds>{_N}) s",
        _phase(StartPhase.WEIGHTS, done=True, engine="builtin"),
    ),
    _rule(
        f"{_BUILTIN}stopped",
        rf"^{_BUILTIN}stopped$",
        _phase(StartPhase.SHUTDOWN, done=True, engine="builtin"),
    ),
    _rule(_BUILTIN, rf"^{_BUILTIN}.*max_model_len (?P<length>\d{{1,12}}),", _builtin_ready),
    # vLLM, in the order of a start.
    _rule("API server version ", r"API server version (?P<version>\d\S*)", _version),
    _rule("█  version ", r"█\s+version (?P<version>\d\S*)", _version),
    _rule("non-default args: ", r"non-default args: (?P<brace>\{)?", _vllm_args),
    _rule("args: Namespace(", r"args: Namespace\((?P<brace>\{)?", _vllm_args),
    _rule(
        "Initializing a V1 LLM engine",
        r"Initializing a V1 LLM engine \(v(?P<version>[^)]*)\) with config: ",
        _vllm_engine,
    ),
    _rule(
        "distributed_init_method=", r"world_size=\d+ rank=\d+", _phase(StartPhase.DISTRIBUTED, engine="vllm")
    ),
    _rule("Starting to load model", r"Starting to load model", _phase(StartPhase.WEIGHTS, engine="vllm")),
    _rule(
        "Loading weights took ",
        rf"Loading weights took (?P<seconds>{_N}) seconds",
        _phase(StartPhase.WEIGHTS, seconds_figure="weight_read_s"),
    ),
    _rule(
        "Model loading took ",
        rf"Model loading took (?P<gib>{_N}) GiB(?: memory)? and (?P<seconds>{_N}) seconds",
        _phase(
            StartPhase.WEIGHTS, done=True, engine="vllm", figure="weights_gib", seconds_figure="weights_s"
        ),
    ),
    _rule("for vLLM's torch.compile", r"Using cache directory: ", _phase(StartPhase.COMPILE, engine="vllm")),
    _rule(
        "Dynamo bytecode transform time",
        rf"Dynamo bytecode transform time: (?P<seconds>{_N}) s",
        _phase(StartPhase.COMPILE, engine="vllm"),
    ),
    _rule(
        "Compiling a graph for ",
        rf"Compiling a graph for .*? takes (?P<seconds>{_N}) s",
        _phase(StartPhase.COMPILE),
    ),
    _rule(
        "Directly load the compiled graph",
        rf"Directly load the compiled graph.*? took (?P<seconds>{_N}) s",
        _phase(StartPhase.COMPILE),
    ),
    _rule(
        "torch.compile t",
        rf"torch\.compile (?:takes|took) (?P<seconds>{_N}) s in total",
        _phase(StartPhase.COMPILE, done=True, seconds_figure="compile_s"),
    ),
    _rule(
        "nitial profiling/warmup run",
        rf"nitial profiling/warmup run took (?P<seconds>{_N}) s",
        _phase(StartPhase.PROFILE),
    ),
    _rule("Profiling CUDA graph memory", r"Profiling CUDA graph memory", _phase(StartPhase.PROFILE)),
    _rule(
        "Available KV cache memory: ",
        rf"Available KV cache memory: (?P<available_kv_gib>-?{_N}) GiB",
        _figures(StartPhase.PROFILE, done=True, engine="vllm"),
    ),
    _rule(
        "KV cache size: ",
        rf"KV cache size: (?P<kv_cache_tokens>{_N}) tokens"
        rf"(?:, Maximum concurrency for (?P<max_model_len>{_N}) tokens per request: (?P<max_concurrency>{_N})x)?",
        _figures(StartPhase.KV, done=True, engine="vllm"),
    ),
    _rule(
        "Maximum concurrency for ",
        rf"^Maximum concurrency for (?P<max_model_len>{_N}) tokens per request: (?P<max_concurrency>{_N})x",
        _figures(StartPhase.KV, done=True, engine="vllm"),
    ),
    _rule(
        "Estimated CUDA graph memory",
        rf"Estimated CUDA graph memory: (?P<graphs_estimated_gib>{_N}) GiB",
        _figures(StartPhase.PROFILE, done=False, engine="vllm"),
    ),
    _rule(
        "Graph capturing finished",
        rf"Graph capturing finished in (?P<seconds>{_N}) secs, took (?P<gib>-?{_N}) GiB",
        _phase(StartPhase.GRAPHS, done=True, figure="graphs_gib", seconds_figure="graphs_s"),
    ),
    _rule(
        "init engine (profile, create",
        rf"init engine \(profile, create kv cache, warmup model\) took (?P<init_engine_s>{_N}) s",
        _figures(StartPhase.GRAPHS, done=True, engine="vllm"),
    ),
    # SGLang, in the order of a start. Its "GB" are 2^30 bytes.
    _rule("server_args=", r"server_args=(?:ServerArgs\()?", _sglang_args),
    _rule(
        "Init torch distributed begin",
        r"Init torch distributed begin",
        _phase(StartPhase.DISTRIBUTED, engine="sglang"),
    ),
    _rule(
        "Init torch distributed ends",
        rf"Init torch distributed ends\.(?: elapsed=(?P<seconds>{_N}) s)?",
        _phase(StartPhase.DISTRIBUTED, done=True),
    ),
    _rule(
        "Load weight begin",
        rf"Load weight begin\. avail mem=(?P<free_before_gib>{_N}) GB",
        _figures(StartPhase.WEIGHTS, done=False, engine="sglang"),
    ),
    _rule(
        "Load weight end",
        rf"Load weight end\.(?: elapsed=(?P<seconds>{_N}) s)?.*? avail mem={_N} GB, mem usage=(?P<gib>{_N}) GB",
        _phase(
            StartPhase.WEIGHTS, done=True, engine="sglang", figure="weights_gib", seconds_figure="weights_s"
        ),
    ),
    _rule(
        "Use sliding window memory pool",
        rf"(?:full_layer_tokens=(?P<full_layer_tokens>{_N}), )?swa_layer_tokens=(?P<swa_layer_tokens>{_N})",
        _figures(StartPhase.KV, done=False, engine="sglang"),
    ),
    _rule(
        "KV Cache is allocated",
        r"KV Cache is allocated\.",
        _phase(StartPhase.KV, engine="sglang"),
    ),
    _rule(
        "SWAKVPool mem usage",
        rf"SWAKVPool mem usage: (?P<gib>{_N}) GB",
        _phase(StartPhase.KV, figure="kv_pool_gib"),
    ),
    _rule(
        "Memory pool end",
        rf"Memory pool end\. avail mem=(?P<free_after_pools_gib>{_N}) GB",
        _figures(StartPhase.KV, done=True, engine="sglang"),
    ),
    _rule("graph begin", r"(?i)Capture .*graph begin", _phase(StartPhase.GRAPHS, engine="sglang")),
    _rule(
        "graph end",
        rf"(?i)Capture .*graph end\. (?:.*?(?:Time elapsed: |elapsed=)(?P<seconds>{_N}) s)?"
        rf"(?:.*?mem usage=(?P<gib>-?{_N}) GB)?",
        _phase(StartPhase.GRAPHS, done=True, engine="sglang", figure="graphs_gib", seconds_figure="graphs_s"),
    ),
    _rule(
        "max_total_num_tokens=",
        rf"^max_total_num_tokens=(?P<max_total_num_tokens>{_N}),"
        rf"(?: chunked_prefill_size=(?P<chunked_prefill_size>-?{_N}),)?"
        rf"(?: max_prefill_tokens=(?P<max_prefill_tokens>{_N}),)?"
        rf"(?: max_running_requests=(?P<max_running_requests>{_N}),)?"
        rf"(?: context_len=(?P<context_len>{_N}))?"
        rf"(?:, available_[gc]pu_mem=(?P<free_when_ready_gib>{_N}) GB)?",
        _figures(StartPhase.KV, done=True, engine="sglang"),
    ),
    _rule(
        "The server is fired up",
        r"The server is fired up and ready to roll",
        _phase(StartPhase.READY, done=True, engine="sglang"),
    ),
)

# Lines that tell of the end. They are messages too: rules and the search for the first error read them.
ENDINGS: tuple[tuple[bytes, StartPhase], ...] = (
    (b"EngineCore failed to start", StartPhase.DIED),
    (b"EngineCore encountered a fatal error", StartPhase.DIED),
    (b"EngineCore encountered an issue", StartPhase.DIED),
    (b"Engine core initialization failed", StartPhase.DIED),
    (b"Engine core proc ", StartPhase.DIED),
    (b"EngineDeadError", StartPhase.DIED),
    (b"WorkerProc failed to start", StartPhase.DIED),
    (b"died unexpectedly", StartPhase.DIED),
    (b"Scheduler hit an exception", StartPhase.DIED),
    (b"Received sigquit from a child", StartPhase.DIED),
    (b"SIGQUIT received", StartPhase.DIED),
    (b"vllm: error: ", StartPhase.DIED),
    (b".py: error: ", StartPhase.DIED),
    (b"SIGTERM received", StartPhase.SHUTDOWN),
    (b"[shutdown] API server: shutdown triggered", StartPhase.SHUTDOWN),
    (b"Shutting down FastAPI HTTP server", StartPhase.SHUTDOWN),
    (b"received signal=SIG", StartPhase.SHUTDOWN),
)

# What a line that matters to somebody nearly always contains.
MESSAGES: tuple[bytes, ...] = (
    b"WARNING",
    b"ERROR",
    b"CRITICAL",
    b"Warning",
    b"Error",
    b"Exception",
    b"Traceback (most recent call last)",
    b'File "',
    b"error:",
    b"failed",
    b"Failed",
    b"Killed",
    b"Bus error",
    b"Segmentation fault",
    b"core dumped",
    b"SIGTERM",
    b"SIGQUIT",
    b"sigquit",
    b"exit code",
    b"exited with",
    b"timed out",
    b"imeout",
    b"deprecat",
    b"out of memory",
    b"During handling of",
    b"direct cause of",
)
