"""Build one prompt with one tool's own code, in that tool's own virtual environment. `prompts.py` runs this.

    PYTHON prompt_builders.py TOOL TOKENIZER_FOLDER TOKENS OUTPUT [--repeat N]

Writes the prompt's text, and prints one JSON line: seconds to start (imports, tokenizer, corpus), seconds and CPU
seconds to make each prompt and write it, the process's largest resident memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

Builder = Callable[[], str]


def auto_tokenizer(folder: str):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def guidellm(folder: str, tokens: int) -> Builder:
    from guidellm.data.deserializers.synthetic import _SyntheticTextExamplesIterable
    from guidellm.schemas.data.deserializers.synthetic import SyntheticTextDataArgs

    examples = _SyntheticTextExamplesIterable(
        config=SyntheticTextDataArgs(prompt_tokens=tokens), processor=auto_tokenizer(folder), random_seed=42
    )

    def build() -> str:
        _, row = next(iter(examples))
        (payload,) = row.values()
        return json.loads(payload)["turns"][0]["columns"]["text_column"][0]

    return build


def aiperf(folder: str, tokens: int) -> Builder:
    from aiperf.common import random_generator
    from aiperf.common.tokenizer import Tokenizer
    from aiperf.dataset.generator.prompt import PromptGenerator

    random_generator.init(42)
    tokenizer = Tokenizer.from_pretrained(folder, resolve_alias=False)
    generator = PromptGenerator(prompts=None, prefix_prompts=None, tokenizer=tokenizer)
    return lambda: generator.generate_prompt(tokens)


def genai_bench(folder: str, tokens: int) -> Builder:
    from genai_bench.sampling.text import TextSampler
    from genai_bench.scenarios.base import Scenario

    spec = importlib.util.find_spec("genai_bench")
    assert spec is not None
    assert spec.submodule_search_locations
    lines = (Path(spec.submodule_search_locations[0]) / "data" / "sonnet.txt").read_text().splitlines()
    sampler = TextSampler(auto_tokenizer(folder), "model", "text", lines)
    scenario = Scenario.from_string(f"D({tokens},1)")
    return lambda: sampler.sample(scenario).prompt


def sglang(folder: str, tokens: int) -> Builder:
    # The package's own __init__ files import the whole engine; its data set module needs none of it.
    for name in ("sglang", "sglang.benchmark", "sglang.benchmark.datasets"):
        parent, _, child = name.rpartition(".")
        places = sys.modules[parent].__path__ if parent else sys.path
        package = types.ModuleType(name)
        package.__path__ = [str(Path(place) / child) for place in places if (Path(place) / child).is_dir()]
        sys.modules[name] = package
    from sglang.benchmark.datasets.random import sample_random_requests

    tokenizer = auto_tokenizer(folder)
    return lambda: (
        sample_random_requests(
            input_len=tokens,
            output_len=1,
            num_prompts=1,
            range_ratio=1.0,
            tokenizer=tokenizer,
            dataset_path="",
            random_sample=False,
        )[0].prompt
    )


def vllm(folder: str, tokens: int) -> Builder:
    from vllm.benchmarks.datasets import RandomDataset

    data = RandomDataset(random_seed=0)
    tokenizer = auto_tokenizer(folder)
    return lambda: data.sample(tokenizer, 1, input_len=tokens, output_len=1)[0].prompt


def farspan(folder: str, tokens: int) -> Callable[[Path], None]:
    from itertools import count

    from farspan.prompts.corpus import BuiltinCorpus
    from farspan.prompts.exact_builder import build_prompt
    from farspan.prompts.load_tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    corpus = BuiltinCorpus()
    seeds = count()
    return lambda path: build_prompt(tokenizer, tokens=tokens, seed=next(seeds), corpus=corpus).write_text(
        path
    )


def peak_rss_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not say how much memory a process had")


def main() -> None:
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=["farspan", "guidellm", "aiperf", "genai-bench", "sglang", "vllm"])
    parser.add_argument("folder")
    parser.add_argument("tokens", type=int)
    parser.add_argument("output", type=Path)
    parser.add_argument("--repeat", type=int, default=1)
    arguments = parser.parse_args()
    build = globals()[arguments.tool.replace("-", "_")](arguments.folder, arguments.tokens)
    start_s = time.perf_counter() - started
    prompt_s, cpu_s = [], []
    for _ in range(arguments.repeat):
        began, cpu_began = time.perf_counter(), time.process_time()
        if arguments.tool == "farspan":
            build(arguments.output)
        else:
            arguments.output.write_bytes(build().encode())
        prompt_s.append(time.perf_counter() - began)
        cpu_s.append(time.process_time() - cpu_began)
    figures = {"start_s": start_s, "prompt_s": prompt_s, "cpu_s": cpu_s, "peak_rss_mib": peak_rss_mib()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
