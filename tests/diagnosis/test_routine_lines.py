"""The lines of every day: throughput, batches, refused requests, and what clients sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan.diagnosis.log_reader import LogReader
from farspan.engines.logs.records import Access, Batch, Event, Throughput, Traffic

THROUGHPUT = (
    "INFO 11-22 20:03:32 [loggers.py:273] Engine 003: Avg prompt throughput: 6070.5 tokens/s, "
    "Avg generation throughput: 3.0 tokens/s, Running: 1 reqs, Waiting: 2 reqs, GPU KV cache usage: 1.8%, "
    "Prefix cache hit rate: 0.0%"
)


def events_of(line: str) -> list[Event]:
    reader = LogReader()
    return [*reader.feed(f"{line}\n".encode()), *reader.close()]


def read(line: str) -> object:
    (event,) = events_of(line)
    return event


@pytest.mark.parametrize("prefix", ["", "(APIServer pid=811) "])
def test_colours_change_nothing(prefix: str) -> None:
    plain, coloured = read(prefix + THROUGHPUT), read(f"\x1b[36m{prefix}\x1b[0m{THROUGHPUT}")
    assert isinstance(plain, Throughput)
    assert plain == coloured
    assert plain.where.at is not None
    assert (plain.prompt_tps, plain.running, plain.waiting, plain.engine) == (6070.5, 1, 2, "003")


_COUNT = st.integers(0, 10**12 - 1)
_SHARE = st.floats(0, 1).map("{:.2f}".format)


@given(
    version=st.sampled_from(["Prefill batch, ", "Prefill batch [17], ", "Prefill batch. "]),
    usages=st.sampled_from(
        [
            "token usage: {}, ",
            "full token usage: {}, swa token usage: {}, ",
            "#full token: 3, mamba usage: {}, ",
            "",
        ]
    ),
    shares=st.tuples(_SHARE, _SHARE),
    counts=st.tuples(_COUNT, _COUNT, _COUNT, _COUNT),
    rest=st.sampled_from(["", "#pending-token: 3, cuda graph: False, input throughput (token/s): 2.53"]),
)
def test_prefill_batches_of_every_version(
    version: str, usages: str, shares: tuple[str, str], counts: tuple[int, int, int, int], rest: str
) -> None:
    new, cached, running, queued = counts
    batch = read(
        f"[2026-11-22 20:03:32 TP0] {version}#new-seq: 1, #new-token: {new}, #cached-token: {cached}, "
        f"{usages.format(*shares)}#running-req: {running}, #queue-req: {queued}, {rest}"
    )
    assert isinstance(batch, Batch)
    assert tuple(batch)[1:6] == (True, new, cached, running, queued)
    said = shares[: usages.count("{}")]
    assert batch.usage == max(map(float, said), default=0.0)


def test_decode_batches_say_how_fast_they_are() -> None:
    batch = read(
        "[2026-11-22 20:03:32 TP0] Decode batch, #running-req: 2, #token: 811, token usage: 0.30, cuda graph: True, "
        "gen throughput (token/s): 60.11, #queue-req: 1, "
    )
    assert isinstance(batch, Batch)
    assert tuple(batch)[1:] == (False, 0, 0, 2, 1, 0.3, 60.11)


def test_what_comes_between_is_not_lost() -> None:
    found = read(THROUGHPUT.replace("GPU KV", "Preemptions: 4, GPU KV").replace("rate: 0.0", "rate: 37.5"))
    assert isinstance(found, Throughput)
    assert found.preemptions == 4
    assert found.hit_rate == 0.375


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


@pytest.mark.parametrize("end", ["", "\r", "\x1b[0m", "\x1b[0m\r"])
def test_successes_are_only_counted(end: str) -> None:
    lines = f'1.1.1.1:1 - "GET / HTTP/1.1" 200 OK{end}\n\nINFO x\n' * 3
    reader = LogReader()
    events = [*reader.feed(lines.encode()), *reader.close()]
    assert [event.answered for event in events if isinstance(event, Traffic)] == [3]
    assert reader.lines_read == 9


@pytest.mark.parametrize(
    "line",
    [
        "INFO 11-22 20:03:32 [logger.py:40] Received request cmpl-1: prompt: '{}'",
        "INFO 11-22 20:03:32 [logger.py:60] Generated response cmpl-1: output: '{}'",
        "[2026-11-22 20:03:32] Receive: obj=GenerateReqInput(text='{}'",
        "[2026-11-22 20:03:32] Finish: obj=GenerateReqInput(rid='1'), out={{'text': '{}'",
    ],
)
@pytest.mark.parametrize("prefix", ["", "(APIServer pid=8) ", "2026-11-22T20:03:32Z "])
def test_what_a_client_sent_says_nothing(line: str, prefix: str) -> None:
    """A prompt may look like any line: that of a stranger, of a traceback, of a throughput."""
    assert events_of(prefix + line.format(f"ERROR {REFUSED} CUDA out of memory")) == []
