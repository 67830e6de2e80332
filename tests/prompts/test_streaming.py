import io
import json
import socket
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from farspan.prompts.corpus import TextCorpus
from farspan.prompts.exact_builder import build_prompt, iter_prompts
from farspan.prompts.tokenizer import Tokenizer

Load = Callable[[str], Tokenizer]


@pytest.mark.parametrize("name", ["llama4", "recall"])
@pytest.mark.parametrize("chunk", [7, 1000, 2**20])
def test_chunks_join_to_the_text(tokenizer: Load, tmp_path: Path, name: str, chunk: int) -> None:
    (tmp_path / "t.txt").write_text('Größe "naïve" \\ 日本語 \t 👩‍👩‍👧 text.\n' * 200)
    # The recall checkpoint has words of its own, and is given no others.
    corpus = TextCorpus(tmp_path / "t.txt") if name == "llama4" else None
    prompt = build_prompt(tokenizer(name), tokens=3000, seed=4, corpus=corpus)
    chunks = list(prompt.iter_text(chunk))
    assert b"".join(chunks).decode() == prompt.text
    assert all(len(part) == chunk for part in chunks[:-1])
    assert json.loads(b"".join(prompt.iter_json_string(chunk))) == prompt.text


@pytest.mark.parametrize("name", ["llama4", "recall"])
def test_ids_as_numpy_file_and_as_json(tokenizer: Load, tmp_path: Path, name: str) -> None:
    prompt = build_prompt(tokenizer(name), tokens=300_000, seed=4, chat=True)
    prompt.write_ids(tmp_path / "p.npy")
    prompt.write_ids(tmp_path / "p.json")
    assert np.array_equal(np.load(tmp_path / "p.npy"), prompt.token_ids)
    assert json.loads((tmp_path / "p.json").read_bytes()) == prompt.token_ids.tolist()
    assert json.loads(b"".join(prompt.iter_ids_json())) == prompt.token_ids.tolist()


def test_a_prompt_goes_through_a_socket(tokenizer: Load) -> None:
    prompt = build_prompt(tokenizer("llama4"), tokens=500_000, seed=4)
    received = io.BytesIO()
    ours, theirs = socket.socketpair()

    def receive() -> None:
        while chunk := theirs.recv(2**16):
            received.write(chunk)

    thread = threading.Thread(target=receive)
    thread.start()
    with ours, ours.makefile("wb") as stream:
        prompt.write_text(stream)
    thread.join()
    theirs.close()
    assert received.getvalue().decode() == prompt.text


def test_fifty_prompts_of_a_million_tokens_take_little_memory(tokenizer: Load) -> None:
    llama = tokenizer("llama4")
    build_prompt(llama, tokens=1_000_000, seed=0)  # the index is not what is measured
    tracemalloc.start()
    try:
        held = list(iter_prompts(llama, 50, tokens=1_000_000, task="needle"))
        held_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        sizes, starts = [], set()
        for prompt in held:
            chunks = prompt.iter_text()
            first = next(chunks)
            starts.add(first[:200])
            sizes.append(len(first) + sum(map(len, chunks)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(starts) == 50
    assert min(sizes) > 4_000_000
    # All fifty, 230 MB of text and 200 MB of ids, held at once; then written, a chunk at a time.
    assert held_bytes < 40 * 2**20
    assert peak - held_bytes < 12 * 2**20
