"""No line costs more than its length: by construction, not by luck.

What is looked for anywhere in a line is RE2, which has no backtracking. What `re` reads is matched from the line's
start, and its patterns are taken apart here: every repeat is possessive, or short, or the last thing of its way.
"""

from __future__ import annotations

import re
import time
from itertools import chain

import pytest
import re2

from farspan.diagnosis.examine import examine
from farspan.diagnosis.knowledge import knowledge
from farspan.engines.logs import common_lines, log_line
from farspan.engines.sglang import log_grammar as sglang_lines
from farspan.engines.vllm import log_grammar as vllm_lines

_MOST_STEPS = 600
BACKTRACKING = [
    value
    for value in chain.from_iterable(
        vars(module).values() for module in (log_line, common_lines, vllm_lines, sglang_lines)
    )
    if isinstance(value, re.Pattern)
]


def _ways(parsed: object) -> int:
    """How many ways a pattern can match from one position, at most: what it may have to try before it gives up."""
    ways = 1
    for operation, argument in parsed:  # type: ignore[attr-defined]
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = argument
            ways *= max(int(most) - int(least) + 1, 1) * _ways(inner) ** min(int(most), 4)
        elif name == "SUBPATTERN":
            ways *= _ways(argument[-1])
        elif name == "BRANCH":
            ways *= sum(_ways(branch) for branch in argument[1])
        elif name in ("ATOMIC_GROUP", "POSSESSIVE_REPEAT"):
            continue  # never gone back into
    return ways


@pytest.mark.parametrize("pattern", BACKTRACKING, ids=lambda pattern: repr(pattern.pattern)[:40])
def test_what_re_reads_can_hardly_go_back(pattern: re.Pattern[str]) -> None:
    flags = pattern.flags & (re.ASCII | re.IGNORECASE)
    assert _ways(re._parser.parse(pattern.pattern, flags)) <= _MOST_STEPS  # type: ignore[attr-defined]


def test_everything_else_is_re2() -> None:
    known = knowledge()
    for pattern in chain(
        (rule.pattern for rule in known.rules),
        (kind.pattern for kind in known.noise),
        (line.pattern for line in known.lines if line.pattern not in BACKTRACKING),
    ):
        assert type(pattern).__module__.startswith("re2")
        re2.compile(pattern.pattern)


def _worst(pattern: str) -> list[str]:
    """Lines made of a pattern's own words, over and over: as near to a match as can be, and never one."""
    words = re.findall(r"[A-Za-z][\w .:=-]{2,}", pattern)[:8]
    joined = " ".join(words)
    lines = [(word * (16_000 // len(word) + 1))[:16_000] for word in words[:3]]
    return [*lines, (joined * (16_000 // max(len(joined), 1) + 1))[:16_000] if joined else "9" * 16_000]


def test_every_pattern_against_its_worst_lines() -> None:
    """A thousand lines of 16 KB, each the worst for one pattern, are read like any 16 MB; backtracking takes hours."""
    known = knowledge()
    patterns = {
        pattern.pattern
        for pattern in chain(
            (rule.pattern for rule in known.rules),
            (kind.pattern for kind in known.noise),
            (line.pattern for line in known.lines),
        )
    }
    lines = [line for pattern in patterns for line in _worst(pattern)]
    began = time.process_time()
    examine(
        [("ERROR 11-22 20:00:00 [core.py:1] " + "\nERROR 11-22 20:00:00 [core.py:1] ".join(lines)).encode()]
    )
    assert time.process_time() - began < 60 + len(lines) * 0.1


@pytest.mark.parametrize(
    "unit", [b"\n", b"\r", b"\x00", b"a", b"\x1b]", b"(x pid=1) ", b"scheduler", b"/", b"="]
)
def test_a_file_of_one_thing(unit: bytes) -> None:
    began = time.process_time()
    examine([unit * (20_000_000 // len(unit))])
    assert time.process_time() - began < 30


@pytest.mark.parametrize("value", ["9" * 4400, "1e400", "٣", "²", "nan", "-1", "0"])
def test_absurd_numbers(value: str) -> None:
    lines = (
        "INFO 11-22 20:00:00 [a.py:1] GPU KV cache size: {0} tokens, Maximum concurrency for {0} tokens per "
        "request: {0}x",
        "INFO 11-22 20:00:00 [a.py:1] Model loading took {0} GiB memory and {0} seconds",
        "INFO 11-22 20:00:00 [a.py:1] non-default args: {{'max_model_len': {0}, 'tensor_parallel_size': {0}}}",
        "INFO 11-22 20:00:00 [a.py:1] Engine {0}: Avg prompt throughput: {0} tokens/s, Avg generation "
        "throughput: {0} "
        "tokens/s, Running: {0} reqs, Waiting: {0} reqs, GPU KV cache usage: {0}%, Prefix cache hit rate: {0}%",
        "[2026-11-22 20:00:00 TP0] max_total_num_tokens={0}, chunked_prefill_size={0}, max_prefill_tokens={0}, "
        "max_running_requests={0}, context_len={0}, available_gpu_mem={0} GB",
        "[2026-11-22 20:00:00 TP{0}] Prefill batch, #new-token: {0}, #running-req: {0}, token usage: {0}, "
        "#queue-req: {0}",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {0} GiB. GPU 0 has a total "
        "capacity of {0} GiB "
        "of which {0} GiB is free",
        "ValueError: User-specified max_model_len ({0}) is greater than the derived max_model_len (x={0})",
        "ValueError: max seq len ({0}), ({0} GiB KV cache is needed, which is larger than the available KV cache "
        "memory ({0} GiB). the estimated maximum model length is {0}.",
        "This model's maximum context length is {0} tokens. However, you requested {0} tokens",
        "Input length ({0} tokens) exceeds the maximum allowed length ({0} tokens)",
        "CUDA out of memory occurred when warming up sampler with {0} dummy requests",
        "AssertionError: {0} is not divisible by {0}",
        "Worker proc x died unexpectedly (exit code: {0})",
        "Not enough host memory available. Requesting {0} GB but only have {0} GB free",
    )
    for line in lines:
        examine([line.format(value).encode()])
    examine(["\n".join(lines).format(value).encode()])


def test_a_line_of_no_known_words_is_no_candidate() -> None:
    """A pattern without words of its own would be tried on every line of every log."""
    assert not knowledge().patterns.candidates(b"a quiet line that says nothing")
    assert not knowledge().patterns.candidates(b"x")
