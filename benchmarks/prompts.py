"""Building exact prompts: farspan beside the prompt builders of five benchmark tools.

    python benchmarks/prompts.py --venvs /tmp/peers --json prompts.json
    python benchmarks/prompts.py --venvs /tmp/peers --python vllm=/opt/vllm/bin/python --lengths 1M,10M

Each tool's own released code makes one prompt from the Llama 4 tokenizer in a virtual environment of its own, made in
the folder --venvs unless --python names one (vLLM only with --python). Each prompt's text is then counted as a
server counts it, BOS included. Needs farspan's dev extra: the tokenizer comes from the package llama-models.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from farspan.errors import InputError
from farspan.prompts.backends.bytepair import BytePairTokenizer
from farspan.prompts.backends.llama4 import load_tokenizer_model
from farspan.prompts.exact_builder import build_prompt
from farspan.prompts.generator import generate_text
from farspan.prompts.tasks import TASKS
from farspan.sizes import format_tokens, parse_token_list

WORKER = Path(__file__).with_name("prompt_builders.py")

# What each tool's environment needs. SGLang's data set module is used without its engine.
PACKAGES = {
    "guidellm": [["torch==2.13.0"], ["guidellm==0.8.1", "torch==2.13.0"]],
    "aiperf": [["aiperf==0.13.0"]],
    "genai-bench": [["genai-bench==0.0.5"]],
    "sglang": [["numpy", "transformers", "requests", "tqdm"], ["--no-deps", "sglang==0.5.23"]],
}
PEERS = [*PACKAGES, "vllm"]


@dataclass(frozen=True)
class Run:
    """One prompt made by one tool; the times are 0 when none was made, and the note says why."""

    tool: str
    tokens: int
    note: str = ""
    start_s: float = 0.0
    prompt_s: float = 0.0
    prompt_cpu_s: float = 0.0
    peak_rss_mib: float = 0.0
    counted: int | None = None


@contextlib.contextmanager
def held(lock: Path | None) -> Iterator[None]:
    """Hold a lock file, so that other work on a shared machine waits."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_environment(tool: str, folder: Path) -> Path:
    """Return the Python of a tool's environment, made if it is not there."""
    python = folder / tool / "bin" / "python"
    if not python.exists():
        print(f"installing {tool} into {folder / tool}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder / tool], check=True)
        for packages in PACKAGES[tool]:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def write_tokenizer_folder(model: Path, folder: Path) -> None:
    """Write the Hugging Face folder the other tools need, from Llama's tokenizer.model."""
    from tokenizers import processors
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ours = load_tokenizer_model(model)
    converted = TikTokenConverter(
        vocab_file=str(model),
        pattern=ours.vocabulary.pattern,
        add_prefix_space=False,
        extra_special_tokens=list(ours.special_strings),
    ).converted()
    bos = "<|begin_of_text|>"
    converted.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, ours.vocabulary.specials[bos])]
    )
    folder.mkdir(parents=True, exist_ok=True)
    converted.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": "<|eot|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def version_of(tool: str, python: Path) -> str:
    code = (
        "import importlib.metadata as found, sys\n"
        "names = {d.name.lower(): d.version for d in found.distributions()}\n"
        f"print(names.get('{tool}') or names.get('{tool}-cpu') or '')"
    )
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return said.stdout.strip()


def measure(
    tool: str,
    python: Path,
    folder: Path,
    tokens: int,
    output: Path,
    limit_s: float,
    environment: dict[str, str],
    repeat: int = 1,
) -> dict[str, object] | str:
    """Run the worker; return what it says, or why there is nothing."""
    command = [python, "-P", WORKER, tool, folder, str(tokens), output, "--repeat", str(repeat)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            env=os.environ | environment,
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]
    return json.loads(done.stdout.strip().splitlines()[-1])


def counted(tokenizer: BytePairTokenizer, path: Path) -> int | None:
    """Count a text as a server would; None when there is none, or it holds control tokens."""
    try:
        # As bytes: reading as text would turn line ends into others.
        return len(tokenizer.encode_request(path.read_bytes().decode(), chat=False))
    except (InputError, FileNotFoundError):
        return None


def runs_of(
    tool: str, said: dict[str, object] | str, tokens: int, counted: int | None, notes: list[str]
) -> Iterator[Run]:
    """Yield what a worker said: its first prompt under the first note, the fastest later one under the second."""
    if isinstance(said, str):
        yield Run(tool, tokens, said)
        return
    times = list(zip(said["prompt_s"], said["cpu_s"], strict=True))
    for note, (seconds, cpu) in zip(notes, [times[0], min(times[1:], default=times[0])], strict=False):
        yield Run(tool, tokens, note, said["start_s"], seconds, cpu, said["peak_rss_mib"], counted)


def compare(arguments: argparse.Namespace, work: Path, model: Path) -> Iterator[Run]:
    """Yield a run for each tool and length; farspan's with nothing cached, with an index, and for a further prompt."""
    tokenizer = load_tokenizer_model(model)
    folder = work / "llama4"
    write_tokenizer_folder(model, folder)
    given = dict(entry.split("=", 1) for entry in arguments.python)
    output = work / "prompt.txt"

    def run(
        tool: str, python: Path, path: Path, environment: dict[str, str], repeat: int = 1
    ) -> dict[str, object] | str:
        output.unlink(missing_ok=True)
        with held(arguments.lock):
            return measure(tool, python, path, tokens, output, arguments.limit, environment, repeat)

    for tokens in arguments.lengths:
        for path in (model, folder):
            environment = {
                "XDG_CACHE_HOME": str(work / f"cache-{tokens}-{path.name}"),
                "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src"),
            }
            name = f"farspan ({'tokenizer.model' if path == model else 'tokenizer.json'})"
            for repeat, notes in ((1, ["nothing cached"]), (4, ["index cached", "a further prompt"])):
                said = run("farspan", Path(sys.executable), path, environment, repeat)
                yield from runs_of(name, said, tokens, counted(tokenizer, output), notes)
        for tool in arguments.tools:
            if tool not in given and (tool not in PACKAGES or not arguments.venvs):
                continue
            python = Path(given[tool]) if tool in given else make_environment(tool, arguments.venvs)
            said = run(tool, python, folder, {"CUDA_VISIBLE_DEVICES": ""})
            yield from runs_of(
                f"{tool} {version_of(tool, python)}", said, tokens, counted(tokenizer, output), [""]
            )


def generator_rate(size: int = 2_000_000, parts: int = 24) -> float:
    """Return the built-in text's rate on one core, MB/s; the first part, which builds the tables, not counted."""
    generate_text(size, 0)
    began = time.perf_counter()
    made = sum(len(generate_text(size, 0, part)) for part in range(1, parts + 1))
    return made / (time.perf_counter() - began) / 1e6


def task_seconds(model: Path, tokens: int) -> dict[str, float]:
    """Return how long each task's prompt takes, text written, index cached."""
    tokenizer = load_tokenizer_model(model)
    build_prompt(tokenizer, tokens=tokens)
    found = {}
    for task in TASKS:
        began = time.perf_counter()
        with tempfile.TemporaryFile() as file:
            build_prompt(tokenizer, tokens=tokens, task=task, seed=1).write_text(file)
        found[task] = time.perf_counter() - began
    return found


def table(runs: list[Run]) -> str:
    """Return the runs as a Markdown table."""
    lines = [
        "| tool | tokens | start s | prompt s | of CPU | peak RSS MiB | as the server counts |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        name = f"{run.tool}, {run.note}" if run.note and run.prompt_s else run.tool
        if not run.prompt_s:
            lines.append(f"| {name} | {format_tokens(run.tokens)} | | {run.note} | | | |")
            continue
        off = None if run.counted is None else run.counted - run.tokens
        share = f" ({off / run.tokens:+.1%})" if off and abs(off) > run.tokens / 1000 else ""
        exact = "cannot be counted" if off is None else "exact" if off == 0 else f"{off:+,}{share}"
        figures = f"{run.start_s:.2f} | {run.prompt_s:.2f} | {run.prompt_cpu_s:.2f} | {run.peak_rss_mib:,.0f}"
        lines.append(f"| {name} | {format_tokens(run.tokens)} | {figures} | {exact} |")
    return "\n".join(lines)


def machine() -> str:
    """Describe this machine."""
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
    ]
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({names[0] if names else 'unknown'}), Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=parse_token_list, default=(1_000_000, 10_000_000), help="1M,10M")
    parser.add_argument(
        "--tools", type=lambda text: text.split(","), default=PEERS, help="other tools, by name"
    )
    parser.add_argument("--venvs", type=Path, help="folder for the tools' environments")
    parser.add_argument(
        "--python", action="append", default=[], metavar="TOOL=PYTHON", help="an environment that is there"
    )
    parser.add_argument("--limit", type=float, default=180, help="seconds after which a tool is stopped")
    parser.add_argument("--lock", type=Path, help="lock file to hold during each run, on a shared machine")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    spec = importlib.util.find_spec("llama_models")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("install farspan's dev extra first: it has llama-models")
    model = Path(spec.submodule_search_locations[0]) / "llama4" / "tokenizer.model"
    runs = []
    with tempfile.TemporaryDirectory() as work:
        os.environ["XDG_CACHE_HOME"] = str(Path(work) / "cache")
        for run in compare(arguments, Path(work), model):
            runs.append(run)
            print(table([run]).splitlines()[-1], flush=True)
        with held(arguments.lock):
            rate = generator_rate()
            tasks = task_seconds(model, max(arguments.lengths))
    print(f"\n{machine()}\n\n{table(runs)}\n\nbuilt-in text: {rate:.0f} MB/s on one core\n")
    print(f"seconds a task at {format_tokens(max(arguments.lengths))}, cached index, text written:")
    print("\n".join(f"  {task:18} {seconds:.2f}" for task, seconds in tasks.items()))
    if arguments.json:
        versions = {name: importlib.metadata.version(name) for name in ("tiktoken", "tokenizers", "numpy")}
        figures = {
            "machine": machine(),
            "versions": versions,
            "runs": [asdict(run) for run in runs],
            "generator_mb_s": rate,
            "task_s": tasks,
        }
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
