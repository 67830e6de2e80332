"""One rank of Llama 4 Scout on eight GPUs, alone on one GPU with dummy weights: the built-in engine and vLLM.

    python benchmarks/scout_rank.py rank FOLDER                       # the rank's config, from the catalog's
    python benchmarks/scout_rank.py check --device cuda               # every kernel, and graphs against no graphs
    python benchmarks/scout_rank.py builtin FOLDER -o builtin.json    # prefill, decoding, parts of a step
    python benchmarks/scout_rank.py vllm FOLDER -o vllm.json          # the same prompts, under a Python that has vLLM
    python benchmarks/scout_rank.py table builtin.json vllm.json      # beside each other

Every head count and width is an eighth of Scout's, the layers are all there: the memory and the arithmetic of one GPU
of eight, without what they tell each other. Time to first token is from handing over the prompt; the time between
tokens is the median of those that follow.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CATALOG = Path(__file__).parents[1] / "src/farspan/models/catalog"
SCOUT = "meta-llama--Llama-4-Scout-17B-16E-Instruct.json"
DIVIDED = (
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "intermediate_size_mlp",
    "vocab_size",
)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    rank = commands.add_parser("rank", help="write the rank's config")
    rank.add_argument("folder", type=Path)
    rank.add_argument("--tp", type=int, default=8)
    rank.set_defaults(run=lambda given: write_rank(given.folder, given.tp))
    check = commands.add_parser("check", help="try every kernel, and graphs against no graphs")
    check.add_argument("--device", default="cuda")
    check.add_argument("-o", "--output", type=Path)
    check.set_defaults(run=run_check)
    for name, function in (("builtin", run_builtin), ("vllm", run_vllm)):
        engine = commands.add_parser(name, help=f"measure {name}")
        engine.add_argument("folder", type=Path)
        engine.add_argument("--contexts", default="65536,262144,1048576")
        engine.add_argument("--tokens", type=int, default=65, help="tokens generated behind each prompt")
        engine.add_argument("--step", type=int, help="most tokens of one step; the engine's own by default")
        engine.add_argument("--kv-cache-dtype", default="auto")
        engine.add_argument("--enforce-eager", action="store_true")
        engine.add_argument("-o", "--output", type=Path)
        engine.set_defaults(run=function)
        if name == "builtin":
            engine.add_argument("--device", default="cuda")
            engine.add_argument("--profile", type=int, default=0, help="a context to profile the end of")
            engine.add_argument(
                "--parts", type=int, default=0, help="time the parts of a step behind a context"
            )
            engine.add_argument("--fp8", default="", help="contexts to measure with FP8 keys and values too")
            engine.add_argument(
                "--check", action="store_true", help="compare answers with and without graphs"
            )
    table = commands.add_parser("table", help="put results beside each other")
    table.add_argument("results", type=Path, nargs="+")
    table.add_argument("-o", "--output", type=Path, help="keep all results in one file, without the answers")
    table.set_defaults(run=lambda given: print_table(given.results, given.output))
    given = parser.parse_args()
    given.run(given)


def write_rank(folder: Path, tp: int, **changes: Any) -> Path:
    """Write the config of one rank of Scout."""
    text: dict[str, Any] = dict(json.loads((CATALOG / SCOUT).read_text())["text_config"])
    for name in DIVIDED:
        text[name] //= tp
    text |= {"architectures": ["Llama4ForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(text | changes, indent=1))
    return folder


def prompt_of(context: int, vocab: int) -> list[int]:
    """Return as many token ids, different for each context from the first on."""
    import numpy as np

    ids: list[int] = np.random.default_rng(context).integers(3, vocab, context).tolist()
    return ids


def row_of(context: int, stamps: list[float]) -> dict[str, Any]:
    """Return one prompt's times; stamps are seconds since it was handed over, one a token."""
    gaps = [after - before for before, after in itertools.pairwise(stamps)]
    row: dict[str, Any] = {"tokens": context, "ttft_s": round(stamps[0], 3)}
    if gaps:
        row["itl_ms"] = round(1000 * statistics.median(gaps), 3)
    print(row, flush=True)
    return row


def save(given: argparse.Namespace, document: dict[str, Any]) -> None:
    """Keep what is known so far."""
    if given.output:
        given.output.write_text(json.dumps(document, indent=1))


def attempt(document: dict[str, Any], name: str, run: Callable[[], Any]) -> Any:
    """Run one part of a benchmark; what goes wrong is kept, and the next part runs."""
    begun = time.perf_counter()
    try:
        result = run()
    except Exception:  # noqa: BLE001 whatever it is, the next part runs
        traceback.print_exc()
        result = {"error": traceback.format_exc()[-1500:]}
    document[name] = result
    print(f"{name}: {time.perf_counter() - begun:.1f} s", flush=True)
    return result


def run_check(given: argparse.Namespace) -> None:
    """Say which kernels are refused, and compare answers with graphs to those without."""
    import tempfile

    import torch

    from farspan.builtin.fused_attention import cudnn_is_right
    from farspan.builtin.load_weights import LoadFormat
    from farspan.builtin.model import LlamaModel

    device, dtype = torch.device(given.device), torch.bfloat16
    document: dict[str, Any] = {"torch": torch.__version__, "device": given.device}
    with tempfile.TemporaryDirectory() as home:
        folder = write_rank(Path(home), 8, num_hidden_layers=4)
        print("loading, which tries the kernels in another process", flush=True)
        begun = time.perf_counter()
        model = LlamaModel(folder, device, dtype, LoadFormat.DUMMY)
        document["load_s"] = round(time.perf_counter() - begun, 1)
        document["refused"] = sorted(model.operations.refused)
        document["cudnn attention"] = cudnn_is_right(device, dtype, model.config.head_dim)
        document["grouped experts"] = getattr(model._layers[0].feed_forward, "grouped", None)
        compare_answers(model, document)
    print(json.dumps({name: value for name, value in document.items() if "answers" not in name}, indent=1))
    save(given, document)


def compare_answers(model: Any, document: dict[str, Any]) -> None:
    """Say whether graphs change an answer, and how many tokens do that are computed in pieces."""
    for fp8 in (False, True):
        answers = {}
        for mode in ("pieces", "eager", "graphs"):
            name = f"answers {mode}{' fp8' if fp8 else ''}"
            answers[mode] = attempt(document, name, lambda mode=mode: answer(model, mode, fp8))  # noqa: B023
        document[f"same tokens{' fp8' if fp8 else ''}"] = {
            "graphs as eager": answers["graphs"] == answers["eager"],
            "eager as pieces, of 3 x 40": sum(
                one == other
                for a, b in zip(answers["eager"], answers["pieces"], strict=False)
                for one, other in zip(a, b, strict=False)
            ),
        }


def answer(model: Any, mode: str, fp8: bool) -> list[list[int]]:
    """Return what a model says to three prompts at once: in pieces, in one go, or by graph."""
    engine = engine_of(model, 2048, "fp8_e4m3" if fp8 else "auto", mode == "eager", 4.0)
    if mode == "pieces":
        engine._decode = None
    elif mode == "graphs" and model.device.type == "cuda":
        assert engine._decode is not None, "decoding in one go is refused"
        assert engine._decode.graphs, "no graph was captured"
    requests = []
    for length in (3000, 9001, 40):
        requests.append(request_of(prompt_of(length, model.config.vocab_size), 40))
        engine.add(requests[-1])
    while engine.has_work:
        engine.step()
    engine.close()
    return [request.output for request in requests]


def engine_of(model: Any, step: int, kv_cache_dtype: str, eager: bool, gib: float) -> Any:
    """Return an engine that keeps no prefixes."""
    from farspan.builtin.engine import EngineOptions, InferenceEngine
    from farspan.kv.kv_options import KVOptions

    kv = KVOptions(capacity_gib=gib, fp8=kv_cache_dtype != "auto", prefix_caching=False, quiet_s=60)
    return InferenceEngine(model, EngineOptions(max_num_batched_tokens=step, kv=kv, enforce_eager=eager))


def request_of(ids: list[int], tokens: int) -> Any:
    """Return a request for so many tokens."""
    import numpy as np

    from farspan.builtin.sampling_params import SamplingParams
    from farspan.builtin.scheduler import Request

    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    return Request("0", np.array(ids, np.int32), params)


def run_builtin(given: argparse.Namespace) -> None:
    """Measure the built-in engine."""
    import torch

    from farspan.builtin.load_weights import LoadFormat
    from farspan.builtin.model import LlamaModel

    begun = time.perf_counter()
    model = LlamaModel(given.folder, given.device, None, LoadFormat.DUMMY)
    synchronize(given.device)
    step = given.step or 16384
    document: dict[str, Any] = {
        "engine": "built-in",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if given.device.startswith("cuda") else given.device,
        "dtype": str(model.dtype),
        "kv_cache_dtype": given.kv_cache_dtype,
        "step": step,
        "weight_gib": round(model.weight_bytes / 2**30, 3),
        "load_s": round(time.perf_counter() - begun, 2),
        "refused": sorted(model.operations.refused),
        "grouped experts": getattr(model._layers[0].feed_forward, "grouped", None),
    }
    print(document, flush=True)
    contexts = [int(text) for text in given.contexts.split(",")]
    begun = time.perf_counter()
    engine = engine_of(model, step, given.kv_cache_dtype, given.enforce_eager, 80.0 if step > 512 else 1.0)
    document["graphs"] = list(engine._decode.graphs) if engine._decode else None
    ask(engine, min(2 * step + 5, max(contexts)), 10)
    synchronize(given.device)
    document["warm_s"] = round(time.perf_counter() - begun, 2)
    rows: list[Any] = []
    document["rows"] = rows
    for context in contexts:
        attempt(document, f"context {context}", lambda: rows.append(ask(engine, context, given.tokens)))  # noqa: B023
        save(given, document)
    if given.profile:
        attempt(document, "profile", lambda: profile(engine, given.profile, given.output))
        save(given, document)
    engine.close()
    if not given.enforce_eager and contexts:
        eager = engine_of(model, step, given.kv_cache_dtype, True, 80.0 if step > 512 else 1.0)
        first = contexts[0]
        attempt(document, "without graphs", lambda: ask(eager, first, given.tokens))
        eager._decode = None
        attempt(document, "in pieces", lambda: ask(eager, first, min(given.tokens, 20)))
        eager.close()
    save(given, document)
    if given.parts:
        attempt(document, "parts_ms", lambda: parts(model, step, given.parts))
        save(given, document)
    if given.fp8:
        fp8_rows: list[Any] = []
        document["rows_fp8"] = fp8_rows
        engine = engine_of(model, step, "fp8_e4m3", given.enforce_eager, 80.0 if step > 512 else 1.0)
        for context in [int(text) for text in given.fp8.split(",")]:
            run = lambda: fp8_rows.append(ask(engine, context, given.tokens))  # noqa: B023, E731
            attempt(document, f"fp8 context {context}", run)
        engine.close()
        save(given, document)
    if given.check:
        compare_answers(model, document)
        save(given, document)


def ask(engine: Any, context: int, tokens: int) -> dict[str, Any]:
    """Answer one prompt."""
    request = request_of(prompt_of(context, engine.model.config.vocab_size), tokens)
    begun = time.perf_counter()
    engine.add(request)
    stamps: list[float] = []
    while engine.has_work:
        outputs = engine.step()
        if any(output.token_id is None for output in outputs):
            raise RuntimeError(outputs[0].error)
        stamps += [time.perf_counter() - begun] * len(outputs)
    return row_of(context, stamps)


def profile(engine: Any, context: int, output: Path | None) -> str:
    """Profile the last two steps of a prompt, and ten that decode; the tables go beside the results."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    step = engine.options.max_num_batched_tokens
    request = request_of(prompt_of(context, engine.model.config.vocab_size), 30)
    engine.add(request)
    while request.computed < context - 2 * step:
        engine.step()
    synchronize(str(engine.model.device))
    texts = []
    for name, done in (
        ("prefill", lambda: bool(request.output)),
        ("decode", lambda: len(request.output) >= 11),
    ):
        begun = time.perf_counter()
        with torch_profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            while not done():
                engine.step()
            synchronize(str(engine.model.device))
        seconds = time.perf_counter() - begun
        averages = profiled.key_averages()
        order = "self_device_time_total" if engine.model.device.type == "cuda" else "self_cpu_time_total"
        kernels = averages.table(sort_by=order, row_limit=25, max_name_column_width=70)
        cpu = averages.table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=70)
        texts.append(f"{name}: {seconds:.3f} s by the clock\n{kernels}\nby the CPU:\n{cpu}")
    while engine.has_work:
        engine.step()
    path = (output or Path("scout_rank")).with_suffix(".profile.txt")
    path.write_text("\n\n".join(texts))
    return str(path)


def parts(model: Any, step: int, context: int) -> dict[str, Any]:
    """Time what a step is made of, milliseconds of the GPU, behind `context` tokens in the cache.

    Of products and attention of a prompt tera/s are FLOP, of attention of one token they are bytes.
    """
    import torch
    from torch.nn import functional

    from farspan.builtin import fused_attention as fused

    config, device, dtype = model.config, model.device, model.dtype
    heads, dim, hidden = config.num_attention_heads, config.head_dim, config.hidden_size
    layer = model._layers[0]
    found: dict[str, Any] = {"step": step, "context": context}

    def timed(name: str, run: Callable[[], Any], work: float = 0.0, repeats: int = 5) -> None:
        """Time many runs as one graph, so that what the CPU takes to launch them is not in it."""
        try:
            graph = torch.cuda.CUDAGraph()
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            with torch.inference_mode():
                run()
                torch.cuda.synchronize()
                with torch.cuda.graph(graph):
                    for _ in range(repeats):
                        run()
                graph.replay()
                start.record()
                graph.replay()
                stop.record()
                torch.cuda.synchronize()
            spent = start.elapsed_time(stop) / repeats
            found[name] = {"ms": round(spent, 4)} | ({"tera/s": round(work / spent / 1e9, 2)} if work else {})
        except Exception as problem:  # noqa: BLE001 whatever it is, the next part runs
            found[name] = {"error": str(problem)[:300]}
        print(name, found[name], flush=True)

    x = torch.randn(step, hidden, device=device, dtype=dtype)
    width = config.intermediate_size
    timed("feed forward", lambda: layer.feed_forward(x), 2 * step * 2 * 3 * hidden * width)
    timed("one expert's part alone, shared", lambda: functional.linear(x, layer.feed_forward.gate_up[-1]))
    timed("qkv", lambda: functional.linear(x, layer.qkv), 2 * step * layer.qkv.numel())
    timed("add and norm", lambda: model.operations.add_norm(x, x, layer.input_norm))
    qkv = functional.linear(x, layer.qkv)
    places = model.operations.places(torch.arange(step, device=device))
    timed("heads", lambda: model.operations.heads(qkv, places, True))
    rows = torch.randn(context, 2, 1, dim, device=device, dtype=dtype)
    key, value = (rows[:, index].transpose(0, 1).unsqueeze(0) for index in (0, 1))
    for tokens in sorted({8192, step}):
        query = torch.randn(tokens, heads, dim, device=device, dtype=dtype).transpose(0, 1).unsqueeze(0)
        folded = fused.fold(query, 1)
        flops = 4 * tokens * context * heads * dim
        for name, kernel in (("cudnn", fused._cudnn), ("flash", fused._flash)):
            timed(f"{name}, {tokens} queries", lambda: kernel(folded, key, value, False, dim**-0.5), flops, 2)  # noqa: B023
        own = [each[:, :, :tokens].repeat_interleave(heads, 1) for each in (key, value)]
        half = 2 * tokens * tokens * heads * dim
        for name, kernel in (("cudnn", fused._cudnn), ("flash", fused._flash)):
            timed(f"{name}, causal, {tokens}", lambda: kernel(query, *own, True, dim**-0.5), half)  # noqa: B023
    decode_attention(model, context, timed)
    few = torch.randn(1, hidden, device=device, dtype=dtype)
    timed("decode: feed forward", lambda: layer.feed_forward(few), repeats=50)
    timed("decode: qkv", lambda: functional.linear(few, layer.qkv), repeats=50)
    timed("decode: head", lambda: functional.linear(few, model._head), repeats=50)
    return found


def decode_attention(model: Any, context: int, timed: Callable[..., None]) -> None:
    """Time attention of one token over the pages of a long context, by how the kernel is launched."""
    import torch

    from farspan.builtin.kernels import triton_operations as launches
    from farspan.builtin.kernels.operations import PageView
    from farspan.kv.formats import KVFormat

    config, device = model.config, model.device
    table = torch.arange(context // 16, dtype=torch.int32, device=device)[None]
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    view = PageView(table, zero, zero, 16, None)
    query = torch.randn(1, config.num_attention_heads, config.head_dim, device=device, dtype=model.dtype)
    for fp8 in (False, True):
        form = KVFormat(1, config.head_dim, model.dtype, fp8)
        store = form.store(torch.zeros(context, form.row_bytes, dtype=torch.uint8, device=device))
        kept = launches._PROGRAMS, launches._POSITIONS
        for programs in (264, 528, 1056):
            for positions in (32, 64, 128):
                launches._PROGRAMS, launches._POSITIONS = programs, positions
                name = f"decode attention{' fp8' if fp8 else ''}, {programs} programs of {positions}"
                size = context * form.row_bytes
                attend = model.operations.attend_pages
                timed(name, lambda: attend(query, zero + context - 1, view, store), size, 10)  # noqa: B023
        launches._PROGRAMS, launches._POSITIONS = kept


def synchronize(device: str) -> None:
    """Wait for the GPU."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def run_vllm(given: argparse.Namespace) -> None:
    """Measure vLLM, in its own Python: nothing of farspan is imported."""
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import vllm
    from vllm import LLM, SamplingParams

    contexts = [int(text) for text in given.contexts.split(",")]
    options: dict[str, Any] = {
        "model": str(given.folder),
        "skip_tokenizer_init": True,
        "load_format": "dummy",
        "dtype": "bfloat16",
        "kv_cache_dtype": given.kv_cache_dtype,
        "max_model_len": max(contexts) + 1024,
        "gpu_memory_utilization": 0.9,
        "enable_prefix_caching": False,
        "max_num_seqs": 16,
    }
    if given.step:
        options["max_num_batched_tokens"] = given.step
    document: dict[str, Any] = {"engine": f"vLLM {vllm.__version__}", "kv_cache_dtype": given.kv_cache_dtype}
    document["enforce_eager"] = given.enforce_eager
    begun = time.perf_counter()
    # Without --enforce-eager vLLM compiles, which takes its first start another minute or two.
    llm = LLM(**options, enforce_eager=given.enforce_eager)
    document["start_s"] = round(time.perf_counter() - begun, 1)
    engine = llm.llm_engine
    try:
        document["step"] = engine.vllm_config.scheduler_config.max_num_batched_tokens
        document["cudagraph_mode"] = str(engine.vllm_config.compilation_config.cudagraph_mode)
    except AttributeError as problem:
        document["step"] = str(problem)
    vocab = json.loads((given.folder / "config.json").read_text())["vocab_size"]
    rows: list[Any] = []
    document["rows"] = rows

    def ask_vllm(context: int, tokens: int) -> dict[str, Any]:
        params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
        prompt = {"prompt_token_ids": prompt_of(context, vocab)}
        start = time.perf_counter()
        engine.add_request(f"{context}-{time.monotonic_ns()}", prompt, params)
        stamps: list[float] = []
        while engine.has_unfinished_requests():
            for output in engine.step():
                count = len(output.outputs[0].token_ids)
                stamps += [time.perf_counter() - start] * (count - len(stamps))
        return row_of(context, stamps)

    ask_vllm(min(20_000, max(contexts)), 10)
    for context in contexts:
        attempt(document, f"context {context}", lambda: rows.append(ask_vllm(context, given.tokens)))  # noqa: B023
        save(given, document)


def print_table(results: list[Path], output: Path | None) -> None:
    """Print results beside each other; ratios are the last's times over the first's."""
    documents = [json.loads(path.read_text()) for path in results]
    kept = [
        {name: value for name, value in each.items() if value is not None and not name.startswith("answers")}
        for each in documents
    ]
    if output:
        output.write_text(json.dumps(kept, indent=1) + "\n")
    names = [f"{each['engine']} {each['kv_cache_dtype']}, steps of {each.get('step')}" for each in documents]
    columns = [f"{name}: {figure}" for name in names for figure in ("first token, s", "between tokens, ms")]
    print("| tokens | " + " | ".join(columns) + " | ratio | ratio |")
    print("|---" * (len(columns) + 3) + "|")
    by_context = [{row["tokens"]: row for row in each["rows"] if "ttft_s" in row} for each in documents]
    for context in sorted(set.intersection(*(set(rows) for rows in by_context))):
        rows = [each[context] for each in by_context]
        cells = [f"{row.get(figure, float('nan')):.2f}" for row in rows for figure in ("ttft_s", "itl_ms")]
        ratios = [f"{rows[-1][figure] / rows[0][figure]:.2f}" for figure in ("ttft_s", "itl_ms")]
        print(f"| {context:,} | " + " | ".join([*cells, *ratios]) + " |")


if __name__ == "__main__":
    main()
