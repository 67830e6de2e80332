"""A real SGLang 0.5.23 on the CPU with elastic KV pools in host memory, beside SGLang alone.

The recall checkpoint as a text-only Llama 4 has one pool. With two pools SGLang's torch_native backend, the only one
that runs here, reads window layers by the slots of full attention, and the plug-in refuses it.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from farspan.integrations.sglang.memory_gauges import PREFIX
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.load_tokenizer import load_tokenizer
from sglang_on_cpu import RunningServer, checkpoint, serve, site

PROMPTS = (1500, 4000)
LARGEST = 400_000  # tokens the pool may hold, most of them without memory
MAPPED = re.compile(r"KV cache: full ([\d,]+) of ([\d,]+) tokens, .*? mapped \((\d+)\)")

pytestmark = pytest.mark.engines


def test_elastic_pools_start_small_grow_shrink_and_answer_the_same(
    engines_python: Path, tmp_path: Path
) -> None:
    model, found, log = checkpoint(tmp_path, pools=1), site(tmp_path / "site"), tmp_path / "farspan.log"
    tokenizer = load_tokenizer(model)
    made = [build_prompt(tokenizer, tokens=each, depth=0.1, seed=each, output_tokens=8) for each in PROMPTS]
    prompts = [prompt.token_ids.tolist() for prompt in made for _ in range(2)]
    with serve(engines_python, model, found, tmp_path / "sglang.log", "--max-total-tokens 24000") as server:
        sglangs = [server.answer(prompt) for prompt in prompts]
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
    first, most = lines[0][0], max(lines)
    ends = [mapped for mapped, used in lines[lines.index(most) :] if not used]
    assert ends == [first], "the pool after the flush"
    assert most[1] >= sum(PROMPTS)
    assert most[0] >= most[1] * token_bytes(model)
    assert first < most[0] / 4
    assert begun == shrunk < grown - (most[0] - first) / 2, "of all that the process holds"
    assert begun < LARGEST * token_bytes(model) / 50
    assert "the prefix tree is farspan's, one kind of layers" in text
    assert "leak" not in text.lower()


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
