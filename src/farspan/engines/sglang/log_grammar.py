"""Which line of SGLang's log means what: SGLang 0.5.6.post2 to 0.5.23, from their sources. "GB" are 2^30 bytes."""

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
from farspan.engines.logs.printed_args import read_pairs
from farspan.engines.logs.records import Arguments, Batch, EngineVersion, Event, Progress, StartPhase
from farspan.engines.sglang.log_version import version_like

_BATCH = re.compile(r"\A(Prefill|Decode) batch\b")
_FIELD = re.compile(r"#(new-token|cached-token|running-req|queue-req): (\d{1,12})")
_POOL_USAGE = re.compile(r"usage: (\d{1,6}\.\d{1,6})")
_GENERATION = re.compile(r"gen throughput \(token/s\): (\d{1,12}(?:\.\d{1,6})?)")


def _batch(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    text = parsed.text
    count = dict(_FIELD.findall(text))
    generation = _GENERATION.search(text)
    return [
        Batch(
            parsed.where,
            match[1] == "Prefill",
            int(count.get("new-token", 0)),
            int(count.get("cached-token", 0)),
            int(count.get("running-req", 0)),
            int(count.get("queue-req", 0)),
            max(map(float, _POOL_USAGE.findall(text)), default=0.0),
            float(generation[1]) if generation is not None else 0.0,
        )
    ]


def _arguments(parsed: ParsedLine, match: re.Match[str]) -> list[Event]:
    values = read_pairs(parsed.text[match.end() :])
    return [
        EngineVersion(parsed.where, "sglang"),
        Arguments(parsed.where, "sglang", values, version_like(values)),
        Progress(parsed.where, StartPhase.CONFIG, text="arguments read"),
    ]


LINES: tuple[LinePattern, ...] = (
    # What clients sent, and the lines of every batch.
    line_pattern(r"Receive: obj=|Finish: obj=", nothing),
    LinePattern("(?:Prefill|Decode) batch", _BATCH, _batch),
    # SGLang, in the order of a start. Its "GB" are 2^30 bytes.
    line_pattern(r"server_args=(?:ServerArgs\()?", _arguments),
    line_pattern(
        r"Init torch distributed begin",
        phase(StartPhase.DISTRIBUTED, engine="sglang"),
    ),
    line_pattern(
        rf"Init torch distributed ends\.(?: elapsed=(?P<seconds>{NUMBER}) s)?",
        phase(StartPhase.DISTRIBUTED, done=True),
    ),
    line_pattern(
        rf"Load weight begin\. avail mem=(?P<free_before_gib>{NUMBER}) GB",
        figures(StartPhase.WEIGHTS, done=False, engine="sglang"),
    ),
    line_pattern(
        rf"Load weight end\.(?: elapsed=(?P<seconds>{NUMBER}) s)?.*? avail mem={NUMBER} GB, "
        rf"mem usage=(?P<gib>{NUMBER}) GB",
        phase(
            StartPhase.WEIGHTS, done=True, engine="sglang", figure="weights_gib", seconds_figure="weights_s"
        ),
    ),
    line_pattern(
        rf"(?:full_layer_tokens=(?P<full_layer_tokens>{NUMBER}), )?"
        rf"swa_layer_tokens=(?P<swa_layer_tokens>{NUMBER})",
        figures(StartPhase.KV, done=False, engine="sglang"),
    ),
    line_pattern(
        r"KV Cache is allocated\.",
        phase(StartPhase.KV, engine="sglang"),
    ),
    line_pattern(
        rf"SWAKVPool mem usage: (?P<gib>{NUMBER}) GB",
        phase(StartPhase.KV, figure="kv_pool_gib"),
    ),
    line_pattern(
        rf"Memory pool end\. avail mem=(?P<free_after_pools_gib>{NUMBER}) GB",
        figures(StartPhase.KV, done=True, engine="sglang"),
    ),
    line_pattern(r"(?i)Capture .*graph begin", phase(StartPhase.GRAPHS, engine="sglang")),
    line_pattern(
        rf"(?i)Capture .*graph end\. (?:.*?(?:Time elapsed: |elapsed=)(?P<seconds>{NUMBER}) s)?"
        rf"(?:.*?mem usage=(?P<gib>-?{NUMBER}) GB)?",
        phase(StartPhase.GRAPHS, done=True, engine="sglang", figure="graphs_gib", seconds_figure="graphs_s"),
    ),
    line_pattern(
        rf"^max_total_num_tokens=(?P<max_total_num_tokens>{NUMBER}),"
        rf"(?: chunked_prefill_size=(?P<chunked_prefill_size>-?{NUMBER}),)?"
        rf"(?: max_prefill_tokens=(?P<max_prefill_tokens>{NUMBER}),)?"
        rf"(?: max_running_requests=(?P<max_running_requests>{NUMBER}),)?"
        rf"(?: context_len=(?P<context_len>{NUMBER}))?"
        rf"(?:, available_[gc]pu_mem=(?P<free_when_ready_gib>{NUMBER}) GB)?",
        figures(StartPhase.KV, done=True, engine="sglang"),
    ),
    line_pattern(
        r"The server is fired up and ready to roll",
        phase(StartPhase.READY, done=True, engine="sglang"),
    ),
    # Its end.
    line_pattern(
        r"Scheduler hit an exception|Received sigquit from a child|SIGQUIT received|sglang: error: "
        r"|launch_server\.py: error: ",
        ending(StartPhase.DIED),
        is_message=True,
    ),
    line_pattern("SIGTERM received", ending(StartPhase.SHUTDOWN), is_message=True),
)
