"""Questions about SGLang's arithmetic and farspan's answers: shared by the oracle's tests and the recorded ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from farspan.engines.sglang.defaults import resolve
from farspan.engines.sglang.flags import read_flags
from farspan.engines.sglang.layout import is_hybrid, kv_layout
from farspan.engines.sglang.pool import (
    PoolError,
    SplitSettings,
    requests_by_state,
    solve_pools,
)
from farspan.engines.sglang.tables import GraphShape, graph_tables, request_rows, request_table_bytes
from farspan.engines.sglang.versions import SglangRules
from farspan.hardware.gpu import Gpu, Origin
from farspan.models.spec import AttentionKind, KvDtype, LatentSpec, LayerSpec, ModelSpec, StateTensor
from farspan.planner.request import PlanRequest
from farspan.sizes import GIB


@st.composite
def pool_cases(draw: st.DrawFn) -> dict[str, Any]:
    """A model's layers, a card, and settings; `family` decides which kinds of layer it has."""
    family = draw(st.sampled_from(["full", "chunked", "window", "mla", "recurrent"]))
    full = draw(st.integers(1, 40))
    heads = 2 ** draw(st.integers(0, 4))
    head_dim = 64 * draw(st.integers(1, 4))
    windowed = family in ("chunked", "window")
    window = draw(st.sampled_from([128, 1024, 4096, 8192])) if windowed else 0
    split = windowed and draw(st.booleans())
    total = draw(st.integers(20 * GIB, 190 * GIB))
    weights = draw(st.integers(1 * GIB, 18 * GIB))
    page = draw(st.sampled_from([1, 16, 64, 128]))
    ratio = draw(st.sampled_from([0.05, 0.3, 0.5, 1.0]))
    return {
        "kind": "pool",
        "family": family,
        "chunked": family == "chunked",
        "split": split,
        "full_layers": full,
        "window_layers": 3 * full if family == "chunked" else draw(st.integers(1, 40)) if windowed else 0,
        "kv_heads": heads,
        "window_kv_heads": heads,
        "head_dim": head_dim,
        "value_dim": head_dim,
        "window_head_dim": head_dim,
        "kv_lora_rank": 512 if family == "mla" else 0,
        "rope_dim": 64 if family == "mla" else 0,
        "context": draw(st.integers(10_000, 10_485_760)),
        "window": window,
        "tp": 2 ** draw(st.integers(0, 3)),
        "kv": draw(st.sampled_from(["bf16", "fp8"])),
        "page": 1 if split and family == "chunked" else page,
        "swa_ratio": draw(st.floats(0.01, 1.0)),
        "hybrid_ratio": ratio,
        "fraction": draw(st.floats(0.3, 0.95)),
        "free_gib": (total - weights) / GIB,
        "total_gib": total / GIB,
        "max_total_tokens": draw(st.none() | st.integers(1000, 20_000_000)),
        "max_running_requests": draw(st.none() | st.integers(1, 4096)),
        "chunk": draw(st.sampled_from([2048, 8192, 131072, -1])),
        "overlap": draw(st.booleans()),
        "radix": draw(st.booleans()),
        "state_bytes": draw(st.integers(10_000, 50_000_000)) if family == "recurrent" else 0,
        "mamba_ratio": draw(st.sampled_from([0.2, 0.9, 1.5])),
        "mamba_slots": draw(st.none() | st.integers(1, 4096)) if family == "recurrent" else None,
    }


def model_of(case: dict[str, Any]) -> ModelSpec:
    """The case's model as farspan describes models."""
    if case["kv_lora_rank"]:
        latent = LatentSpec(case["kv_lora_rank"], case["rope_dim"], 128, 128, 0)
        size = case["kv_lora_rank"] + case["rope_dim"]
        layers = [
            LayerSpec(i, AttentionKind.MLA, 128, 1, size, 0, latent=latent)
            for i in range(case["full_layers"])
        ]
    else:
        layers = [
            LayerSpec(i, AttentionKind.FULL, 128, case["kv_heads"], case["head_dim"], case["value_dim"])
            for i in range(case["full_layers"])
        ]
    kind = AttentionKind.CHUNKED_LOCAL if case["chunked"] else AttentionKind.SLIDING_WINDOW
    for _ in range(case["window_layers"]):
        size = case["window_head_dim"]
        layers.append(
            LayerSpec(len(layers), kind, 128, case["window_kv_heads"], size, size, window=case["window"])
        )
    if case["state_bytes"]:
        state = StateTensor("recurrent", (case["state_bytes"],), 1, split_dim=1)
        layers.append(LayerSpec(len(layers), AttentionKind.LINEAR, 128, 0, 128, 128, states=(state,)))
    name = "Llama4ForConditionalGeneration" if case["chunked"] else "MiMoV2FlashForCausalLM"
    return ModelSpec("case", name, "case", 4096, 32000, 10_485_760, tuple(layers), ())


def our_pools(case: dict[str, Any], rules: SglangRules) -> dict[str, Any]:
    """Our answer to a pool case."""
    model = model_of(case)
    kv = KvDtype.FP8_E4M3 if case["kv"] == "fp8" else KvDtype.AUTO
    ratio = case["hybrid_ratio"] if rules.hybrid_flag and case["chunked"] and case["split"] else None
    hybrid = is_hybrid(model, rules, ratio=ratio, off=not case["split"])
    layout = kv_layout(model, kv, case["tp"], rules, hybrid=hybrid)
    if case.get("draft_layers"):
        layout = layout.with_draft(case["draft_layers"], rules)
    free, total = case["free_gib"] * GIB, case["total_gib"] * GIB
    settings_ = SplitSettings(
        page_size=case["page"],
        swa_ratio=case["swa_ratio"],
        hybrid_ratio=ratio,
        context_length=case["context"],
        max_total_tokens=case["max_total_tokens"],
        max_running_requests=case["max_running_requests"],
        chunked_prefill_size=case["chunk"],
        radix_cache=case["radix"],
        overlap=case["overlap"],
        mamba_ratio=case["mamba_ratio"],
        mamba_slots=case["mamba_slots"],
    )
    try:
        sizes = solve_pools(free - total * (1 - case["fraction"]), layout, settings_, rules)
    except PoolError:
        return {"stops": True}
    cap = None
    if sizes.state_slots:
        cap = requests_by_state(sizes.state_slots, rules, radix_cache=case["radix"], overlap=case["overlap"])
    rows = request_rows(sizes.row_tokens, case["context"], case["max_running_requests"], rules, cap)
    if rows <= 0 and rules.rows_capped_by_pool:
        return {"stops": True}
    return {
        "full": sizes.full_tokens,
        "window": sizes.window_tokens,
        "rows": rows,
        "table": request_table_bytes(rows, case["context"], rules),
        "state_slots": sizes.state_slots,
    }


@st.composite
def graph_cases(draw: st.DrawFn) -> dict[str, Any]:
    chunk = draw(st.sampled_from([0, 8192]))
    window = chunk or draw(st.sampled_from([0, 128, 4096]))
    batch = draw(st.integers(1, 512))
    return {
        "kind": "graph",
        "backend": draw(st.sampled_from(["fa3", "triton", "flashinfer", "trtllm_mha"])),
        "context": draw(st.integers(1000, 10_485_760)),
        "page": draw(st.sampled_from([1, 16, 64])),
        "chunk": chunk,
        "window": window,
        "split": draw(st.booleans()),
        "heads": draw(st.integers(1, 64)),
        "value_dim": draw(st.sampled_from([64, 128, 256])),
        "batch": batch,
        "rows": batch + draw(st.integers(0, 2048)),
    }


def our_graph_bytes(case: dict[str, Any], rules: SglangRules) -> int:
    """Our answer to a graph case."""
    shape = GraphShape(
        batch=case["batch"],
        context_length=case["context"],
        page_size=case["page"],
        chunk=case["chunk"],
        window=case["window"],
        split_pools=case["split"] and case["window"] > 0,
        heads=case["heads"],
        value_dim=case["value_dim"],
        rows=case["rows"],
        uses_mla=False,
        index_top_k=0,
        amd=False,
    )
    return sum(table.bytes for table in graph_tables(case["backend"], shape, rules))


@st.composite
def default_cases(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "kind": "defaults",
        "smi_mib": float(draw(st.integers(8 * 1024, 300 * 1024))),
        "tp": 2 ** draw(st.integers(0, 3)),
        "chunk": draw(st.none() | st.sampled_from([2048, 16384, 131072, -1])),
        "max_running_requests": draw(st.none() | st.integers(1, 1000)),
        "graphs": draw(st.booleans()),
        "mla": False,
    }


_DENSE = ModelSpec(
    "case",
    "LlamaForCausalLM",
    "llama",
    4096,
    32000,
    131072,
    tuple(LayerSpec(i, AttentionKind.FULL, 64, 8, 128, 128, intermediate_size=1) for i in range(4)),
    (),
)


def our_defaults(case: dict[str, Any], rules: SglangRules) -> dict[str, Any]:
    """Our answer to a defaults case: the chunk, the captured batch sizes, and the fraction."""
    # The card is not one of the catalog: nvidia-smi's figure is torch's and half a percent.
    memory = round(case["smi_mib"] * 2**20 / 1.005)
    gpu = Gpu("card", memory, Origin.ASSUMED, 1.0, 1.0, 1.0, "", 1.0, (9, 0))
    flags: dict[str, str | None] = {} if case["graphs"] else {"--disable-cuda-graph": None}
    if case["chunk"] is not None:
        flags["--chunked-prefill-size"] = str(case["chunk"])
    if case["max_running_requests"] is not None:
        flags["--max-running-requests"] = str(case["max_running_requests"])
    request = PlanRequest(_DENSE, gpu, case["tp"], case["tp"], 100_000, engine_flags=flags)
    mine = resolve(read_flags(request, rules), _DENSE, gpu, case["tp"], rules, long_context=True)
    return {
        "chunk": mine.chunked_prefill_size,
        "graph_bs": list(mine.graph_bs),
        "fraction": mine.mem_fraction_static,
    }
