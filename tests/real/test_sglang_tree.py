"""A real SGLang 0.5.23 on the CPU, with and without the plug-in's tree: the same tokens, cold and from the cache."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.load_tokenizer import load_tokenizer
from sglang_on_cpu import checkpoint, serve, site

# Prompts in chunks of 1,024 tokens, one longer than a window of 8,192.
PROMPTS = (1500, 9000)

pytestmark = pytest.mark.engines


def answers(python: Path, model: Path, found: Path, log: Path, options: str) -> list[dict[str, Any]]:
    """Serve, send each prompt twice, and return what came back; the pools are SGLang's own."""
    tokenizer = load_tokenizer(model)
    prompts = [
        build_prompt(tokenizer, tokens=each, depth=0.1, seed=each, output_tokens=8) for each in PROMPTS
    ]
    options = f"--max-total-tokens 24000 {options}"
    with serve(python, model, found, log, options, FARSPAN_KV_POOLS="sglang") as server:
        seen = [server.answer(prompt.token_ids.tolist()) for prompt in prompts for _ in range(2)]
        time.sleep(3)  # idle: SGLang's checks of its pools and of the tree run
    return seen


def test_a_server_answers_the_same_with_farspans_tree(engines_python: Path, tmp_path: Path) -> None:
    model, found = checkpoint(tmp_path, pools=2, heads=2), site(tmp_path / "site")
    logs = [tmp_path / "sglang.log", tmp_path / "farspan.log"]
    sglangs = answers(engines_python, model, found, logs[0], "")
    ours = answers(engines_python, model, found, logs[1], "--radix-cache-backend farspan")
    assert ours == sglangs
    assert [each["cached"] for each in ours[1::2]] == [tokens - 1 for tokens in PROMPTS]
    text = logs[1].read_text("utf-8", "replace")
    assert "the prefix tree is farspan's, a window of 8,192 tokens" in text
    # SGLang's words; libraries of its own count what they leak when a process ends.
    assert "leak detected" not in text.lower()
