"""Measuring with a text of one's own: it is in the prompts, in the run's record, and no other goes on with the run."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

import farspan
from farspan.errors import InputError
from farspan.measurement.options import BenchOptions, plan_dry_run
from farspan.measurement.progress import Watcher
from farspan.measurement.resume import read_last_options
from farspan.measurement.run import run_bench
from farspan.measurement.runs.run_folder import load_run
from farspan.prompts.corpus import TextCorpus
from farspan.prompts.load_tokenizer import load_tokenizer
from scripted import ScriptedServer


class Said(Watcher):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, line: str) -> None:
        self.lines.append(line)


def llama4() -> Path:
    spec = importlib.util.find_spec("llama_models")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "llama4" / "tokenizer.model"


async def test_a_text_of_ones_own_is_sent_and_recorded(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corpus = tmp_path / "rows.jsonl"
    corpus.write_text(
        "".join(json.dumps({"body": f"{number} grey herons. "}) + "\n" for number in range(100))
    )
    options = BenchOptions(
        url=server.url, run=tmp_path / "run", contexts=(400, 3000), output_tokens=4, seed=7, tokenizer=llama4(),
        corpus=str(corpus), corpus_field="body",
    )  # fmt: skip
    said = Said()
    outcome = await run_bench(options, watcher=said)
    assert {result.prompt_tokens for result in outcome.results} == {400, 3000}
    grey = load_tokenizer(llama4()).encode_piece(" grey herons").tolist()
    for request in server.requests:
        sent = request["prompt"]
        assert any(sent[at : at + len(grey)] == grey for at in range(len(sent)))
    (warning,) = [line for line in said.lines if line.startswith("!")]
    assert "3k tokens: " in warning
    assert "is shorter than the prompt" in warning
    assert load_run(options.run).info.identity.corpus == TextCorpus(corpus, "body").key
    last, _ = read_last_options(options.run)
    assert (last.corpus, last.corpus_field) == (str(corpus), "body")
    assert (await run_bench(last)).results == outcome.results, "nothing is left to send"
    corpus.write_text(corpus.read_text() + json.dumps({"body": "One more."}))
    with pytest.raises(InputError, match="corpus"):
        await run_bench(last)
    with pytest.raises(InputError, match="corpus"):
        await run_bench(replace(last, corpus=None, corpus_field=None))
    with pytest.raises(InputError, match="add --corpus"):
        replace(options, corpus=None).check()


def test_a_corpus_that_cannot_be_read_is_said_before_anything_is_started(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.txt")
    options = BenchOptions(url="http://127.0.0.1:1", run=tmp_path / "run", contexts=(400,), corpus=missing)
    with pytest.raises(InputError, match=r"none\.txt does not exist"):
        plan_dry_run(options)
    asked = {
        "gpus": "8xH200",
        "contexts": "2M",
        "offline": True,
        "dry_run": True,
        "output": tmp_path / "proof",
    }
    with pytest.raises(InputError, match=r"none\.txt does not exist"):
        farspan.prove("llama-4-scout", corpus=missing, **asked)
    (tmp_path / "mine.txt").write_text("words of my own " * 100)
    commands = farspan.prove("llama-4-scout", corpus=tmp_path / "mine.txt", **asked)
    assert f"--corpus {tmp_path / 'mine.txt'}" in commands.text
