"""Questions and vLLM's own answers, kept so that every version can be checked without any vLLM at hand.

To record them again, for each version: unpack the .py files of its wheel into a folder and run

    python tests/engines/vllm/vllm_golden.py PYTHON VERSION=FOLDER VERSION=FOLDER ...

with PYTHON a Python that has vLLM's dependencies (the engines' environment, plus gguf and diskcache for the
oldest). The answers come from get_kv_cache_configs and its neighbours in that folder, run on a CPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from farspan.engines.vllm.kv_spec import KvSpec, SpecKind
from farspan.engines.vllm.versions import RULES
from vllm_engine import Engine, Question

GOLDEN = Path(__file__).with_name("golden_answers.json")
QUESTIONS = 60


def compact(question: Question) -> dict[str, Any]:
    """A question with each distinct layer written once."""
    kinds = list(dict.fromkeys(question.layers.values()))
    defaults = KvSpec(SpecKind.FULL, 0)._asdict()
    return {
        "kinds": [
            {
                name: value
                for name, value in kind._asdict().items()
                if name == "kind" or value != defaults[name]
            }
            for kind in kinds
        ],
        "order": "".join(str(kinds.index(spec)) for spec in question.layers.values()),
        "max_model_len": question.max_model_len,
        "max_num_batched_tokens": question.max_num_batched_tokens,
        "batches_in_flight": question.batches_in_flight,
        "hybrid": question.hybrid,
        "available": question.available,
    }


def expand(stored: dict[str, Any]) -> Question:
    """The question `compact` wrote."""
    kinds = [KvSpec(**{**kind, "kind": SpecKind(kind["kind"])}) for kind in stored["kinds"]]
    layers = {f"model.layers.{index}.attn": kinds[int(digit)] for index, digit in enumerate(stored["order"])}
    return Question(
        layers,
        stored["max_model_len"],
        stored["max_num_batched_tokens"],
        stored["batches_in_flight"],
        stored["hybrid"],
        stored["available"],
    )


def short(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with each group as its size and first layer, and without an engine's error text."""
    shorter = {name: value for name, value in answer.items() if name != "error"}
    if "groups" in shorter:
        shorter["groups"] = [[len(group), group[0]] for group in shorter["groups"]]
    return shorter


def has_value_sizes(question: Question) -> bool:
    """Whether a layer's values are of another size than its keys, which versions before 0.20 cannot say."""
    return any(
        spec.kind in (SpecKind.FULL, SpecKind.SLIDING_WINDOW) and spec.head_size_v != spec.head_size
        for spec in question.layers.values()
    )


def directed() -> list[Question]:
    """Questions made by hand, each for a rule that changed between versions."""
    full = KvSpec(SpecKind.FULL, 16, 1, 128, 128, 2)
    window = KvSpec(SpecKind.SLIDING_WINDOW, 16, 1, 128, 128, 2, 1024)
    latent = KvSpec(SpecKind.MLA, 16, 1, 576, 0, 2, cache_dtype="auto")
    narrow = KvSpec(SpecKind.MLA, 16, 1, 132, 0, 2, cache_dtype="auto")
    wide = KvSpec(SpecKind.FULL, 16, 1, 192, 192, 2)
    uneven = KvSpec(SpecKind.FULL, 16, 1, 192, 128, 2)
    large = KvSpec(SpecKind.FULL, 32, 1, 128, 128, 2)
    state = KvSpec(SpecKind.STATE, 100_000, state_bytes=8192, state_blocks=1)
    other_state = KvSpec(SpecKind.STATE, 100_000, state_bytes=16384, state_blocks=1)
    models = [
        [full] * 20 + [window] * 28,  # numbers of layers nearly equal
        [full] * 20 + [window] * 24,
        [latent] * 10 + [window] * 12,  # pages that do not divide, beside MLA
        [wide] * 10 + [window] * 12,  # pages that do not divide
        [wide] * 6 + [uneven] * 9,  # value sizes
        [wide] * 6 + [uneven] * 9 + [window] * 10,
        [uneven] * 6 + [wide] * 9 + [window] * 10,
        [latent] * 8 + [narrow] * 8,  # latent sizes
        [large] * 8 + [window] * 24,  # block sizes
        [state] * 9 + [other_state] * 7,  # state pages
    ]
    return [
        Question(
            layers={f"model.layers.{index}.attn": spec for index, spec in enumerate(model)},
            max_model_len=100_000,
            max_num_batched_tokens=2048,
            batches_in_flight=2,
            hybrid=hybrid,
            available=60_000_000_000,
        )
        for model in models
        for hybrid in (True, False)
    ]


def collect(count: int) -> list[Question]:
    """The first questions of the strategy, the same every time, each of another kind of answer."""
    from hypothesis import HealthCheck, given, settings

    from vllm_models import questions

    found: list[Question] = []

    @given(question=questions())
    @settings(
        max_examples=6 * count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def gather(question: Question) -> None:
        if len(question.layers) > 2:
            found.append(question)

    gather()
    return found[:: max(1, len(found) // count)][:count]


def main(arguments: list[str]) -> None:
    """Ask every version every question and write the answers."""
    python, *folders = arguments
    questions = [*directed(), *collect(QUESTIONS)]
    records = [{"question": compact(question), "answers": {}} for question in questions]
    for folder in folders:
        version, _, path = folder.partition("=")
        engine = Engine(python, path)
        for question, record in zip(questions, records, strict=True):
            if RULES[version].window_value_size or not has_value_sizes(question):
                record["answers"][version] = short(engine.ask(question))
        engine.close()
    text = ",\n".join(json.dumps(record, separators=(",", ":")) for record in records)
    GOLDEN.write_text(f"[\n{text}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
