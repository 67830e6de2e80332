"""Plans as text: nothing is cut at any width, and every view says what must be set and what would help."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections import Counter

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from farspan.cli.plan import command
from farspan.planner.text_layout import table, wrap

SCOUT = ("llama-4-scout", "--gpus", "8xH200")
WORDS = st.lists(st.text("abcdefgh0123456789,.-", min_size=1, max_size=12), max_size=12).map(" ".join)


def shown(*arguments: str) -> str:
    return CliRunner().invoke(command, [*SCOUT, *arguments], catch_exceptions=False).stdout


def shown_in_terminal(columns: int, *arguments: str) -> str:
    """What a terminal of this width gets."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    words = [sys.executable, "-m", "farspan", "plan", *SCOUT, *arguments]
    with subprocess.Popen(words, stdout=theirs, env=environment) as process:
        os.close(theirs)
        pieces = []
        try:
            while piece := os.read(ours, 65536):
                pieces.append(piece)
        except OSError:  # Linux ends a terminal whose other side is closed so
            pass
        finally:
            os.close(ours)
        process.wait()
    return b"".join(pieces).decode().replace("\r\n", "\n")


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=6), st.integers(30, 120))
def test_a_table_loses_nothing_at_any_width(rows: list[tuple[str, str, str]], width: int) -> None:
    lines = table(rows, right=(1,), width=width)
    assert Counter("".join(lines).replace(" ", "").replace("-", "")) == Counter(
        "".join("".join(row) for row in rows).replace(" ", "").replace("-", "")
    )
    assert table(rows, right=(1,)) == table(rows, right=(1,), width=1000)


@given(WORDS, st.integers(16, 100))
def test_a_sentence_is_wrapped_between_words(line: str, width: int) -> None:
    lines = wrap(line, width)
    assert " ".join(" ".join(lines).split()) == " ".join(line.split())
    assert all(len(one) <= width for one in lines)
    assert wrap(line, None) == [line]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--context", "10M"),
        ("--context", "10M", "--engine", "vllm"),
        ("--context", "10M", "--concurrency", "4"),
        ("--context", "10M", "--concurrency", "4", "--engine", "sglang"),
        ("--contexts", "128k,1M,10M"),
        ("--context", "1M", "--find", "concurrency"),
    ],
)
def test_a_terminal_of_80_columns_gets_every_word(arguments: tuple[str, ...]) -> None:
    narrow = shown_in_terminal(80, *arguments)
    assert max(map(len, narrow.splitlines())) <= 80
    whole = shown(*arguments).replace("-\n", "\n")
    missing = Counter(whole.split()) - Counter(narrow.split())
    assert set(missing) <= {"-"}


def test_the_first_line_says_what_must_be_set_and_when_the_first_token_comes() -> None:
    both = shown("--context", "10M").splitlines()[0]
    assert both.startswith("10M fits ")
    for part in (
        "vllm 0.33.0 and --max-num-seqs 256 (1.66 at once; one alone has its first token in 50 min 15 s",
        "floor 26 min 35 s, assumed",
        "--max-running-requests 8 --swa-full-tokens-ratio 0.05 (1.43 at once",
    ):
        assert part in both
    one = shown("--context", "1M", "--engine", "vllm").splitlines()[0]
    assert "at once; one alone has its first token in" in one


def test_an_engine_that_cannot_plan_it_has_no_row_but_a_reason() -> None:
    for arguments in (
        ("--context", "1M"),
        ("--contexts", "128k,1M"),
        ("--context", "1M", "--find", "concurrency"),
    ):
        text = shown(*arguments)
        assert not any(
            line.split()[:1] == ["builtin"] or " builtin " in line[:20] for line in text.splitlines()
        )
        assert (
            text.count("Not planned for builtin: the built-in engine runs on one GPU; plan it with --tp 1.")
            == 1
        )


def test_a_no_shows_its_cheapest_cures_in_every_view() -> None:
    side = shown("--context", "10M", "--concurrency", "4")
    assert "vllm 0.33.0 fits with --max-num-seqs 8, --kv-cache-dtype fp8_e4m3, --cpu-offload-gb 20" in side
    assert "    --cpu-offload-gb 20\n" in side
    swept = shown("--contexts", "1M,10M", "--concurrency", "2")
    assert "10M: vllm fits with --max-num-seqs 8, --kv-cache-dtype fp8_e4m3: 3.33 at once." in swept
    alone = shown("--context", "10M", "--concurrency", "4", "--engine", "vllm")
    assert "It fits with --max-num-seqs 8" in alone


def test_a_sweep_says_which_flags_each_row_needs() -> None:
    rows = shown("--contexts", "128k,1M,10M").splitlines()
    needs = {tuple(row.split()[:2]): row for row in rows[2:]}
    assert needs["10M", "vllm"].endswith("--max-num-seqs 256")
    assert needs["10M", "sglang"].endswith("--max-running-requests 8 --swa-full-tokens-ratio 0.05")
    assert "--" not in needs["128k", "vllm"]
    assert "Times are of one request alone on the server." in rows


def test_a_warning_has_a_mark_and_an_explanation_is_a_note() -> None:
    text = shown("--context", "10M", "--engine", "vllm")
    assert "\n! With the default --max-num-seqs 1024 the block tables alone would take" in text
    assert '\nnote: The "GPU KV cache size: ' in text
    assert "\nnote: The figures are for the whole server, not for one GPU" in text
    assert "! The figures" not in text
    both = shown("--context", "1M")
    assert "\nnote: The figures are for the whole server, not for one GPU" in both
    beyond = shown(
        "--context",
        "1M",
        "--engine",
        "vllm",
        "--",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1",
        "--max-model-len",
        "16M",
    )
    assert "\n! --max-model-len 16777216 is above the 10,485,760 positions of the config" in beyond
    assert "\nnote: vLLM reads --max-model-len 16M as 16,777,216: its capital units are binary." in beyond


def test_a_request_is_shown_with_what_it_keeps_on_that_server() -> None:
    off = shown("--context", "1M", "--engine", "vllm", "--engine-version", "0.12.0")
    assert (
        "One request of 1M keeps 22.9 GiB of bfloat16 KV on each GPU of this server: hybrid KV groups are off"
        in off
    )
    assert "Its layers need 5.9 GiB" in off
    on = shown("--context", "10M", "--engine", "vllm", "--engine-version", "0.12.0")
    assert "One request of 10M keeps 57.4 GiB of bfloat16 KV on each GPU:" in on
    several = shown("--context", "1M")
    assert "One request of 1M keeps 5.9 GiB of bfloat16 KV on each GPU:" in several
