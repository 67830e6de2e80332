"""A real SGLang 0.5.23 on the CPU with elastic KV pools in host memory, beside SGLang alone.

The recall checkpoint as a text-only Llama 4 has one pool. With two pools SGLang's torch_native backend, the only one
that runs here, reads window layers by the slots of full attention, and the plug-in refuses it.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from farspan.integrations.sglang.memory_gauges import PREFIX
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.load_tokenizer import load_tokenizer
from sglang_on_cpu import RunningServer, checkpoint, serve, site

PROMPTS = (1500, 9000)
LARGEST = 400_000  # tokens the pool may hold, most of them without memory
MAPPED = re.compile(r"KV cache: full ([\d,]+) of ([\d,]+) tokens, .*? mapped \((\d+)\)")

pytestmark = pytest.mark.engines


class Alone(NamedTuple):
    """What SGLang answers without the plug-in."""

    model: Path
    found: Path
    prompts: list[list[int]]
    answers: list[dict[str, Any]]


@pytest.fixture(scope="module")
def alone(engines_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Each prompt twice: cold and from the cache."""
    home = tmp_path_factory.mktemp("alone")
    model, found = checkpoint(home, pools=1, heads=4), site(home / "site")
    tokenizer = load_tokenizer(model)
    made = [build_prompt(tokenizer, tokens=each, depth=0.1, seed=each, output_tokens=8) for each in PROMPTS]
    prompts = [prompt.token_ids.tolist() for prompt in made for _ in range(2)]
    with serve(engines_python, model, found, home / "sglang.log", "--max-total-tokens 24000") as server:
        return Alone(model, found, prompts, [server.answer(prompt) for prompt in prompts])


def test_elastic_pools_start_small_grow_shrink_and_answer_the_same(
    engines_python: Path, alone: Alone, tmp_path: Path
) -> None:
    model, found, prompts, sglangs = alone
    log = tmp_path / "farspan.log"
    options = f"--radix-cache-backend farspan --max-total-tokens {LARGEST} --enable-metrics"
    checks = {"SGLANG_CHECK_KV_PAGE_INVARIANTS": "1"}
    with serve(engines_python, model, found, log, options, FARSPAN_QUIET_S="1", **checks) as server:
        begun = settled(server)
        ours = [server.answer(prompt) for prompt in prompts]
        grown = settled(server)
        server.get("/flush_cache")
        shrunk = settled(server)
        again = server.answer(prompts[0])
    assert ours == sglangs
    assert [each["cached"] for each in ours[1::2]] == [tokens - 1 for tokens in PROMPTS]
    assert again == ours[0], "after a flush nothing is cached, and memory that went and came back reads right"
    text = log.read_text("utf-8", "replace")
    lines = [(int(mapped), int(used.replace(",", ""))) for used, _, mapped in MAPPED.findall(text)]
    first, (most, used) = lines[0][0], max(lines)
    later = [mapped for mapped, _ in lines[lines.index((most, used)) :]]
    assert used >= sum(PROMPTS)
    token = token_bytes(model)
    assert most >= used * token
    assert first in later, (
        "the pool goes back to what it began with; the request behind the flush may be said, too"
    )
    assert first < most / 5
    assert begun == shrunk < grown - (most - first) / 2, "of all that the process holds"
    assert begun < LARGEST * token / 50
    assert "the prefix tree is farspan's, one kind of layers" in text
    assert "leak detected" not in text.lower()


def test_two_ranks_with_elastic_pools_answer_the_same(
    engines_python: Path, alone: Alone, tmp_path: Path
) -> None:
    """Two processes, a core each, over gloo, of which each has a head of every layer."""
    log, cores = tmp_path / "farspan.log", sorted(os.sched_getaffinity(0))
    options = f"--tp-size 2 --radix-cache-backend farspan --max-total-tokens {LARGEST}"
    bind = {"SGLANG_CPU_OMP_THREADS_BIND": f"{cores[0]}|{cores[-1]}"}
    with serve(engines_python, alone.model, alone.found, log, options, **bind) as server:
        ours = [server.answer(prompt) for prompt in alone.prompts[:2]]
        time.sleep(8)  # idle: SGLang's checks run, and both ranks say what they have
    assert ours == alone.answers[:2]
    text = log.read_text("utf-8", "replace")
    ranks = [
        MAPPED.findall("\n".join(line for line in text.splitlines() if f" TP{rank}]" in line))
        for rank in range(2)
    ]
    assert ranks[0][0] == ranks[1][0]
    assert ranks[0][-1] == ranks[1][-1]
    assert "leak detected" not in text.lower()


def settled(server: RunningServer) -> int:
    """Return the bytes of elastic memory that an idle server holds when it lets go of no more."""
    time.sleep(4)
    held, until = -1, time.monotonic() + 60
    while held != (held := held_bytes(server)) and time.monotonic() < until:
        time.sleep(3)
    return held


def held_bytes(server: RunningServer) -> int:
    (line,) = [one for one in server.get("/metrics").splitlines() if one.startswith(f"{PREFIX}held_bytes")]
    return int(float(line.rsplit(" ", 1)[1]))


def token_bytes(model: Path) -> int:
    """Return the bytes of a token's keys and values in all layers, in float32."""
    config = json.loads((model / "config.json").read_text())
    heads = config["num_hidden_layers"] * config["num_key_value_heads"]
    return int(heads * config["head_dim"] * 2 * 4)
