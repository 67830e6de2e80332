"""The lines of every day: the short way says what the long way says, and plain successes leave by their end."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farspan.diagnosis.log_line import LineParser
from farspan.diagnosis.log_reader import LogReader
from farspan.diagnosis.records import Access, Batch, Event, Throughput, Traffic
from farspan.diagnosis.routine_lines import RoutineLines
from farspan.diagnosis.scan import telling_lines

SUCCESSES = (b'" 200 OK', b'" 200 OK\r', b"200 OK\x1b[0m", b"200 OK\x1b[0m\r")
PIECES = (b"\n", b"a", b" 200 OK", b"OK", b"\x1b[0m", b"\r", b"POST / HTTP/1.1", b"1.1.1.1:1 - ", *SUCCESSES)


@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))
@example(b"")
@example(b"\n\n")
@example(b'" 200 OK')
@example(b'\n" 200 OK\nx\n" 200 OK\r\n')
def test_what_is_left_of_a_block(block: bytes) -> None:
    lines = block.split(b"\n")
    left = telling_lines(block)
    assert left.total == len(lines)
    assert left.lines == [(at, line) for at, line in enumerate(lines) if not line.endswith(SUCCESSES)]


THROUGHPUT = (
    "INFO 11-22 20:03:32 [loggers.py:273] Engine 003: Avg prompt throughput: 6070.5 tokens/s, "
    "Avg generation throughput: 3.0 tokens/s, Running: 1 reqs, Waiting: 2 reqs, GPU KV cache usage: 1.8%, "
    "Prefix cache hit rate: 0.0%"
)


def read(line: str) -> object:
    events: list[Event] = []
    assert RoutineLines(LineParser()).read(7, line.encode(), events)
    (event,) = events
    return event


@pytest.mark.parametrize("prefix", ["", "(APIServer pid=811) "])
def test_both_ways_say_the_same(prefix: str) -> None:
    short = read(prefix + THROUGHPUT)
    long = read(f"\x1b[36m{prefix}\x1b[0m{THROUGHPUT}")  # colours take the long way
    assert isinstance(short, Throughput)
    assert short == long
    assert short.where.at is not None
    assert (short.prompt_tps, short.running, short.waiting, short.engine) == (6070.5, 1, 2, "003")


_COUNT = st.integers(0, 10**12 - 1)
_SHARE = st.floats(0, 1).map("{:.2f}".format)


@st.composite
def batch_lines(draw: st.DrawFn) -> str:
    """A batch line as some version of SGLang writes it, and near misses."""
    ranks = draw(st.sampled_from(["", " TP0", " DP1 TP3", " PP0 TP12"]))
    turn = draw(st.sampled_from(["", " [17]"]))
    second = draw(st.integers(0, 61))
    start = f"[2026-{draw(st.sampled_from(['11-22', '13-77']))} 20:03:{second:02}{ranks}] "
    usages = draw(
        st.sampled_from(
            [
                "token usage: {}, ",
                "full token usage: {}, swa token usage: {}, ",
                "mamba usage: {}, ",
                "",
                "usage, ",
            ]
        )
    )
    usages = usages.format(draw(_SHARE), draw(_SHARE))
    running, waiting = draw(_COUNT), draw(_COUNT)
    if draw(st.booleans()):
        return (
            f"{start}Prefill batch{turn}, #new-seq: 1, #new-token: {draw(_COUNT)}, #cached-token: {draw(_COUNT)}, "
            f"{usages}#running-req: {running}, #queue-req: {waiting}, "
            f"{draw(st.sampled_from(['', '#pending-token: 3, cuda graph: False, input throughput (token/s): 2.53']))}"
        )
    pools = "#full token: {}, full token usage: {}, #swa token: {}, swa token usage: {}, "
    tokens = draw(
        st.sampled_from(
            ["#full token: {}, ", "#token: {}, token usage: {}, ", pools, pools + "#mamba num: 1, "]
        )
    ).format(draw(_COUNT), draw(_SHARE), draw(_COUNT), draw(_SHARE))
    return (
        f"{start}Decode batch{turn}, #running-req: {running}, {tokens}{usages}cuda graph: True, "
        f"gen throughput (token/s): {draw(_SHARE)}, #queue-req: {waiting}, "
    )


@given(batch_lines())
def test_sglangs_batches_say_the_same_both_ways(line: str) -> None:
    short = read(line)
    assert isinstance(short, Batch)
    # A space before the comma takes the long way, which looks for each field by itself.
    first, comma, rest = line.partition(", #")
    assert read(f"{first} {comma}{rest}") == short


def test_what_comes_between_is_not_lost() -> None:
    found = read(THROUGHPUT.replace("GPU KV", "Preemptions: 4, GPU KV"))
    assert isinstance(found, Throughput)
    assert found.preemptions == 4


def test_a_day_that_is_none() -> None:
    found = read(THROUGHPUT.replace("11-22", "99-99"))
    assert isinstance(found, Throughput)
    assert found.where.at is None


REFUSED = '8.8.4.4:51234 - "GET /.env HTTP/1.1" 404 Not Found'


@pytest.mark.parametrize(
    "prefix",
    [
        "INFO:     ",
        "(APIServer pid=811) INFO:     ",
        "[2026-11-22 20:23:22] INFO:     ",
        "2026-11-22T20:03:32.123456789Z stderr F INFO:     ",
        "\x1b[32mINFO\x1b[0m:     ",
    ],
)
def test_a_refused_request_in_every_form(prefix: str) -> None:
    reader = LogReader()
    events = [*reader.feed(f"{prefix}{REFUSED}\n".encode()), *reader.close()]
    (found,) = (event for event in events if not isinstance(event, Traffic))
    assert isinstance(found, Access)
    assert (found.address, found.status) == ("8.8.4.4", 404)
    assert found.request == "GET /.env HTTP/1.1"


def test_what_a_client_sent_says_nothing() -> None:
    """A prompt may look like any line: that of a stranger, of a traceback, of a throughput."""
    sent = f"INFO 11-22 20:03:32 [logger.py:40] Received request cmpl-1: prompt: 'ERROR {REFUSED}'"
    for line in (sent, f"(APIServer pid=8) {sent}", f"2026-11-22T20:03:32Z {sent}"):
        events: list[Event] = []
        assert RoutineLines(LineParser()).read(1, line.encode(), events)
        assert events == []
