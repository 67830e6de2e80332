"""Which line of vLLM's log means what. Read from the sources of vLLM 0.12.0 to 0.33.0."""

from __future__ import annotations

import re

from farspan.engines.logs.line_pattern import (
    NUMBER,
    LinePattern,
    ending,
    figures,
    line_pattern,
    nothing,
    phase,
)
from farspan.engines.logs.log_line import ParsedLine
from farspan.engines.logs.printed_args import read_dict, read_pairs
from farspan.engines.logs.records import (
    Arguments,
    EngineVersion,
    Event,
    Progress,
    StartPhase,
    Throughput,
    WorkBegins,
)

_RATE = r"(\d{1,12}+(?:\.\d{1,6}+)?+)"
_THROUGHPUT = re.compile(
    rf"\A(?:Engine (\d{{1,9}}+): |\d{{1,6}}+ Engines Aggregated: )?Avg prompt throughput: {_RATE} tokens/s, "
    rf"Avg generation throughput: {_RATE} tokens/s, Running: (\d{{1,9}}+) reqs, (?:Swapped: \d{{1,9}}+ reqs, )?"
    r"Waiting: (\d{1,9}+) reqs"
)
_USAGE = re.compile(rf"KV cache usage: {_RATE}%")
_PREEMPTIONS = re.compile(r"Preemptions: (\d{1,9})")
_HIT_RATE = re.compile(rf"Prefix cache hit rate: (?:GPU: )?{_RATE}%")


def _throughput(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    engine, prompt, generation, running, waiting = match.groups()
    usage = _USAGE.search(parsed.text, match.end())
    preemptions = _PREEMPTIONS.search(parsed.text, match.end()) if "Preemptions" in parsed.text else None
    hit_rate = _HIT_RATE.search(parsed.text, match.end())
    return [
        Throughput(
            parsed.where,
            float(prompt),
            float(generation),
            int(running),
            int(waiting),
            float(usage[1]) / 100 if usage is not None else 0.0,
            engine or "",
            int(preemptions[1]) if preemptions is not None else 0,
            float(hit_rate[1]) / 100 if hit_rate is not None else None,
        )
    ]


def _work_begins(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:  # noqa: ARG001
    return [WorkBegins(parsed.where)]


def _version(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    return [EngineVersion(parsed.where, "vllm", match["version"])]


def _arguments(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    text = parsed.text[match.end() :]
    values = read_dict("{" + text) if match["brace"] == "{" else read_pairs(text)
    return [
        EngineVersion(parsed.where, "vllm"),
        Arguments(parsed.where, "vllm", values),
        Progress(parsed.where, StartPhase.CONFIG, text="arguments read"),
    ]


def _engine_starts(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    values = read_pairs(parsed.text[match.end() :])
    if "max_seq_len" in values:
        values["max_model_len"] = values.pop("max_seq_len")
    return [
        EngineVersion(parsed.where, "vllm", match["version"]),
        Arguments(parsed.where, "vllm", values),
        Progress(parsed.where, StartPhase.ENGINE, text="engine process starts"),
    ]


LINES: tuple[LinePattern, ...] = (
    # What clients sent, and the line of every ten seconds.
    line_pattern(r"Received request |Generated response ", nothing),
    LinePattern("Avg prompt throughput: ", _THROUGHPUT, _throughput),
    # vLLM, in the order of a start.
    line_pattern(r"API server version (?P<version>\d\S*)", _version),
    line_pattern(r"█\s+version (?P<version>\d\S*)", _version),
    line_pattern(r"non-default args: (?P<brace>\{)?", _arguments),
    line_pattern(r"args: Namespace\((?P<brace>\{)?", _arguments),
    line_pattern(
        r"Initializing a V1 LLM engine \(v(?P<version>[^)]*)\) with config: ",
        _engine_starts,
    ),
    line_pattern(r"world_size=\d+ rank=\d+", phase(StartPhase.DISTRIBUTED, engine="vllm")),
    line_pattern(r"Starting to load model", phase(StartPhase.WEIGHTS, engine="vllm")),
    line_pattern(
        rf"Loading weights took (?P<seconds>{NUMBER}) seconds",
        phase(StartPhase.WEIGHTS, seconds_figure="weight_read_s"),
    ),
    line_pattern(
        rf"Model loading took (?P<gib>{NUMBER}) GiB(?: memory)? and (?P<seconds>{NUMBER}) seconds",
        phase(StartPhase.WEIGHTS, done=True, engine="vllm", figure="weights_gib", seconds_figure="weights_s"),
    ),
    line_pattern(r"Using cache directory: ", phase(StartPhase.COMPILE, engine="vllm")),
    line_pattern(
        rf"Dynamo bytecode transform time: (?P<seconds>{NUMBER}) s",
        phase(StartPhase.COMPILE, engine="vllm"),
    ),
    line_pattern(
        rf"Compiling a graph for .*? takes (?P<seconds>{NUMBER}) s",
        phase(StartPhase.COMPILE),
    ),
    line_pattern(
        rf"Directly load the compiled graph.*? took (?P<seconds>{NUMBER}) s",
        phase(StartPhase.COMPILE),
    ),
    line_pattern(
        rf"torch\.compile (?:takes|took) (?P<seconds>{NUMBER}) s in total",
        phase(StartPhase.COMPILE, done=True, seconds_figure="compile_s"),
    ),
    line_pattern(
        rf"nitial profiling/warmup run took (?P<seconds>{NUMBER}) s",
        phase(StartPhase.PROFILE),
    ),
    line_pattern(r"Profiling CUDA graph memory", phase(StartPhase.PROFILE)),
    # At VLLM_LOGGING_LEVEL=DEBUG; the second with info before 0.11.
    line_pattern(
        rf"Memory profiling takes {NUMBER} seconds\. Total non KV cache memory: {NUMBER} ?GiB; torch peak memory "
        rf"increase: (?P<peak_activation_gib>{NUMBER}) ?GiB; non-torch forward increase memory: "
        rf"(?P<outside_torch_gib>-?{NUMBER}) ?GiB; ",
        figures(StartPhase.PROFILE, done=False, engine="vllm"),
    ),
    line_pattern(
        rf"Actual usage is {NUMBER} GiB for weight, (?P<peak_activation_gib>{NUMBER}) GiB for peak activation, "
        rf"(?P<outside_torch_gib>-?{NUMBER}) GiB for non-torch memory",
        figures(StartPhase.GRAPHS, done=False, engine="vllm"),
    ),
    line_pattern(
        rf"Available KV cache memory: (?P<available_kv_gib>-?{NUMBER}) GiB",
        figures(StartPhase.PROFILE, done=True, engine="vllm"),
    ),
    line_pattern(
        rf"KV cache size: (?P<kv_cache_tokens>{NUMBER}) tokens"
        rf"(?:, Maximum concurrency for (?P<max_model_len>{NUMBER}) tokens per request: "
        rf"(?P<max_concurrency>{NUMBER})x)?",
        figures(StartPhase.KV, done=True, engine="vllm"),
    ),
    line_pattern(
        rf"^Maximum concurrency for (?P<max_model_len>{NUMBER}) tokens per request: "
        rf"(?P<max_concurrency>{NUMBER})x",
        figures(StartPhase.KV, done=True, engine="vllm"),
    ),
    line_pattern(
        rf"Estimated CUDA graph memory: (?P<graphs_estimated_gib>{NUMBER}) GiB",
        figures(StartPhase.PROFILE, done=False, engine="vllm"),
    ),
    line_pattern(
        rf"Graph capturing finished in (?P<seconds>{NUMBER}) secs, took (?P<gib>-?{NUMBER}) GiB",
        phase(StartPhase.GRAPHS, done=True, figure="graphs_gib", seconds_figure="graphs_s"),
    ),
    line_pattern(
        rf"init engine \(profile, create kv cache, warmup model\) took (?P<init_engine_s>{NUMBER}) s",
        figures(StartPhase.GRAPHS, done=True, engine="vllm"),
    ),
    # The first engine (V0), and the words of versions before 0.9.
    line_pattern(
        rf"model weights take (?P<weights_gib>{NUMBER})GiB;.*reserved for KV Cache is "
        rf"(?P<available_kv_gib>-?{NUMBER})GiB",
        figures(StartPhase.PROFILE, done=True, engine="vllm"),
    ),
    line_pattern(
        rf"Loading model weights took (?P<gib>{NUMBER}) ?G[Bi]",
        phase(StartPhase.WEIGHTS, done=True, engine="vllm", figure="weights_gib"),
    ),
    line_pattern(r"# (?:GPU|cuda|rocm) blocks: \d+", phase(StartPhase.KV, done=True, engine="vllm")),
    line_pattern(
        r"Capturing (?:cudagraphs for decoding|the model for CUDA graphs)",
        phase(StartPhase.GRAPHS, engine="vllm"),
    ),
    line_pattern(
        r"[Ee]ncoder cache will be initialized with a budget of (?P<encoder_tokens>\d{1,9}) tokens",
        figures(StartPhase.PROFILE, done=False, engine="vllm"),
    ),
    # The first chat request causes this line: work begins here.
    line_pattern(r"Detected the chat template content format", _work_begins),
    line_pattern(r"Added request \S+|Aborted request\(s\)? \S+|Aborting request", nothing),
    # Its end.
    line_pattern(
        r"EngineCore failed to start|EngineCore encountered (?:a fatal error|an issue)"
        r"|Engine core initialization failed|Engine core proc |EngineDeadError|WorkerProc failed to start"
        r"|died unexpectedly|vllm(?: \w+)?: error: |(?:api_server|launch)\.py: error: ",
        ending(StartPhase.DIED),
        is_message=True,
    ),
    line_pattern(
        r"\[shutdown\] API server: shutdown triggered|Shutting down FastAPI HTTP server|received signal=SIG"
        r"|^KeyboardInterrupt: terminated|Received signal \d+, shutting down",
        ending(StartPhase.SHUTDOWN),
        is_message=True,
    ),
)
