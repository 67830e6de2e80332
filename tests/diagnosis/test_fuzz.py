"""Whatever comes in: no exception, bounded memory, a report that can be printed."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from farspan.diagnosis.diagnose import Doctor
from farspan.diagnosis.examine import examine
from farspan.diagnosis.knowledge import knowledge
from farspan.diagnosis.log_reader import LogReader
from farspan.diagnosis.report_json import report_object
from farspan.diagnosis.report_text import report_lines

EVIDENCE = Path(__file__).parents[1] / "evidence"
LOGS = [path.read_bytes() for path in sorted(EVIDENCE.rglob("*.log"))]
WORDS = [
    *(
        word.encode()
        for kind in (*knowledge().lines, *knowledge().rules, *knowledge().noise)
        for word in re.findall(r"[A-Za-z][A-Za-z _.'=-]{4,}", kind.pattern.pattern)
    ),
    *(b"\n", b"\r", b"\x1b[31m", b"(", b"[2026-11-22 20:21:52 TP0] "),
    *(b"INFO 99-99 99:99:99 [a.py:1] ", b" 0.0.", b"9" * 30),
    *(b'{"log":"', b"(x pid=1) " * 30, b"Traceback (most recent call last):"),
    *(b'  File "a", line 1, in b', b"\xff\xfe\x00"),
    *(b'1.1.1.1:1 - "GET / HTTP/1.1" 404 Not Found', b"Avg prompt throughput: 1e999 tokens/s"),
    *(b"-", b".", b",", b"GiB", b"{'a': ["),
    b"Prefill batch, #new-seq: 1, #new-token: 99999999999999999999, #cached-token: 0, token usage: 9.9.9",
]  # fmt: skip


def examine_wholly(data: bytes) -> None:
    report = examine([data])
    json.dumps(report_object(report))
    assert all("\x1b" not in line and "\n" not in line.rstrip("\n") for line in report_lines(report))


@given(st.binary(max_size=4000))
@settings(max_examples=60)
def test_any_bytes(data: bytes) -> None:
    examine_wholly(data)


@given(st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=30)), max_size=60))
@settings(max_examples=150)
def test_words_of_the_grammar_in_any_order(words: list[bytes]) -> None:
    examine_wholly(b"".join(words))


@given(st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_real_logs_mutated(dice: random.Random) -> None:
    data = bytearray(dice.choice(LOGS))
    for _ in range(dice.randrange(1, 30)):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(4)
        if kind == 0:
            del data[at : at + dice.randrange(200)]
        elif kind == 1:
            data[at:at] = dice.choice(WORDS)
        elif kind == 2:
            data[at : at + 4] = dice.randbytes(4)
        else:
            other = dice.choice(LOGS)
            start = dice.randrange(len(other) + 1)
            data[at:at] = other[start : start + dice.randrange(500)]
    examine_wholly(bytes(data))


def _hostile(lines: int, dice: random.Random) -> bytes:
    """Every line of a new shape, and as many kinds of state as there are."""
    made = []
    for number in range(lines):
        word = bytes(dice.choices(b"abcdefghijklmnopqrstuvwxyz", k=12))
        made.append(
            dice.choice(
                (
                    b"WARNING 12-02 10:00:00 [a.py:1] " + word,
                    b"(%s pid=1) Traceback (most recent call last):" % word,
                    b'(%s pid=1)   File "%s", line 1, in x' % (word, word),
                    b"(%s pid=1) ValueError: %s" % (word, word),
                    b'INFO:     %d.%d.%d.9:1 - "GET /%s HTTP/1.1" 404 Not Found'
                    % (*(dice.randrange(1, 224) for _ in range(3)), word),
                    b"INFO 12-02 10:00:00 [l.py:1] Engine %d: Avg prompt throughput: 1.0 tokens/s, Avg generation "
                    b"throughput: 0.0 tokens/s, Running: 0 reqs, Waiting: 1 reqs, GPU KV cache usage: 1.0%%"
                    % number,
                    b"INFO 12-02 10:00:00 [a.py:1] plain " + word,
                )
            )
        )
    return b"\n".join(made) + b"\n"


def test_memory_is_bounded() -> None:
    """Twice the hostile log must not need more memory than once."""
    dice = random.Random(7)
    reader, doctor = LogReader(), Doctor()
    peaks = []
    tracemalloc.start()
    try:
        for _ in range(2):
            for _ in range(3):
                doctor.feed(reader.feed(_hostile(2500, dice)))
            doctor.report()
            peaks.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert peaks[0] < 40 * 2**20
    assert peaks[1] - peaks[0] < 3 * 2**20
