"""SGLang's command line, read the way SGLang reads it: what was given, before any default."""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.sglang.adapters import EXPERT_RANKS, AdapterPool, read_adapters
from farspan.engines.sglang.flag_checks import check_flags
from farspan.engines.sglang.speculative import DEFAULT_REQUESTS, Speculation, read_speculation
from farspan.engines.sglang.versions import SglangRules
from farspan.errors import InputError, UnsupportedError
from farspan.models.spec import AttentionKind, KvDtype
from farspan.planner.engine_flags import flag_words, split_environment
from farspan.planner.request import EngineFlags, PlanRequest
from farspan.sizes import GIB

CONTEXT_LENGTH = ("--context-length",)
MAX_REQUESTS = ("--max-running-requests",)
FRACTION = ("--mem-fraction-static",)
PIPELINE = ("--pp-size", "--pipeline-parallel-size")
_ATTENTION_GROUPS = ("--attn-dp-size", "--attention-data-parallel-size")
_CONTEXT_RANKS = ("--dcp-size", "--decode-context-parallel-size")
_STATE_DTYPES = ("float32", "bfloat16", "float16")
_DATA_PARALLEL = ("--dp-size", "--data-parallel-size", "--dp")
_TP = ("--tp-size", "--tensor-parallel-size", "--tp")
_WRITTEN_BY_FARSPAN = (*_TP, *CONTEXT_LENGTH, "--kv-cache-dtype")
_KV_NAMES = {
    "auto": KvDtype.AUTO,
    "bf16": KvDtype.BFLOAT16,
    "bfloat16": KvDtype.BFLOAT16,
    "fp8_e4m3": KvDtype.FP8_E4M3,
    "fp8_e5m2": KvDtype.FP8_E5M2,
}


class HicacheFlags(NamedTuple):
    """The host tier as asked for: `ratio` to the GPU's pool, or `size_gb` (1e9 bytes), a rank.

    `explicit` says whether either was given; without it 0.5.23 shrinks the ratio to the machine.
    """

    ratio: float
    size_gb: int
    explicit: bool
    io_backend: str


class SglangFlags(NamedTuple):
    """What was given, None where SGLang chooses. Sizes are tokens; `context_length` is the server's limit;
    `cpu_offload_bytes` of weights stay in the machine's memory, for each GPU; `attention_groups` of ranks each have a
    KV cache of their own (data-parallel attention); `context_ranks` share the tokens of a cache out between them;
    `adapters` is what is asked of LoRA, `speculation` of speculative decoding; `state_dtype` is that of recurrent
    states."""

    context_length: int | None
    kv_dtype: KvDtype
    mem_fraction_static: float | None
    max_running_requests: int | None
    max_total_tokens: int | None
    chunked_prefill_size: int | None
    max_prefill_tokens: int
    page_size: int | None
    attention_backend: str | None
    prefill_backend: str | None
    decode_backend: str | None
    graph_max_bs: int | None
    graph_bs: tuple[int, ...]
    decode_graphs: bool
    prefill_graphs: bool
    prefill_graph_max: int | None
    deterministic: bool
    swa_ratio: float
    hybrid_ratio: float | None
    hybrid_off: bool
    radix_cache: bool
    overlap: bool
    multimodal: bool | None
    mamba_ratio: float
    mamba_slots: int | None
    state_dtype: str
    hicache: HicacheFlags | None
    cpu_offload_bytes: int
    pipeline_stages: int
    attention_groups: int
    context_ranks: int
    adapters: AdapterPool | None
    speculation: Speculation | None

    @property
    def requests_per_group(self) -> int | None:
        """Requests at once of one KV cache, as --max-running-requests shares them out."""
        if self.max_running_requests is None:
            return None
        return max(1, self.max_running_requests // self.attention_groups)


def read_flags(request: PlanRequest, rules: SglangRules) -> SglangFlags:
    """Read the engine flags of a request.

    Raises:
        InputError: A flag contradicts the request, has a value SGLang refuses, does not exist in this
            version, or asks for something whose memory is not mirrored.
    """
    _refuse(request, rules)
    speculation = read_speculation(request)
    _check_speculation(request, speculation)
    hicache = None
    if request.has_flag("--enable-hierarchical-cache", "--enable-hicache"):
        hicache = HicacheFlags(
            ratio=request.float_flag(2.0, "--hicache-ratio"),
            size_gb=request.int_flag(0, "--hicache-size"),
            explicit=request.has_flag("--hicache-ratio", "--hicache-size"),
            io_backend=request.text_flag("kernel", "--hicache-io-backend"),
        )
    fraction = request.float_flag(0.0, *FRACTION) if request.has_flag(*FRACTION) else None
    if fraction is not None and not 0 < fraction < 1:
        raise InputError(f"--mem-fraction-static {fraction} is not between 0 and 1", "write it as 0.85")
    swa_ratio = request.float_flag(0.8, "--swa-full-tokens-ratio")
    if not 0 < swa_ratio <= 1:
        raise InputError(
            f"--swa-full-tokens-ratio {swa_ratio} is not above 0 and at most 1", "write it as 0.05"
        )
    graphs_off = request.has_flag("--disable-cuda-graph")
    decode_graph_backend = request.text_flag("", "--cuda-graph-backend-decode")
    prefill_graph_backend = request.text_flag("", "--cuda-graph-backend-prefill")
    return SglangFlags(
        context_length=_optional_int(request, *CONTEXT_LENGTH),
        kv_dtype=_kv_dtype(request),
        mem_fraction_static=fraction,
        max_running_requests=_max_requests(request) or (DEFAULT_REQUESTS if speculation else None),
        max_total_tokens=_optional_int(request, "--max-total-tokens"),
        chunked_prefill_size=_optional_int(request, "--chunked-prefill-size"),
        max_prefill_tokens=request.int_flag(16384, "--max-prefill-tokens"),
        page_size=_optional_int(request, "--page-size"),
        attention_backend=request.text_flag("", "--attention-backend") or None,
        prefill_backend=request.text_flag("", "--prefill-attention-backend") or None,
        decode_backend=request.text_flag("", "--decode-attention-backend") or None,
        graph_max_bs=_optional_int(request, "--cuda-graph-max-bs-decode", "--cuda-graph-max-bs"),
        graph_bs=_batch_sizes(request),
        decode_graphs=decode_graph_backend != "disabled"
        and (
            bool(decode_graph_backend) or not (graphs_off or request.has_flag("--disable-decode-cuda-graph"))
        ),
        prefill_graphs=rules.prefill_graphs
        and prefill_graph_backend != "disabled"
        and (
            bool(prefill_graph_backend)
            or not (
                graphs_off
                or request.has_flag("--disable-prefill-cuda-graph", "--disable-piecewise-cuda-graph")
            )
        ),
        prefill_graph_max=_optional_int(
            request, "--cuda-graph-max-bs-prefill", "--piecewise-cuda-graph-max-tokens"
        ),
        deterministic=request.has_flag("--enable-deterministic-inference", "--rl-on-policy-target"),
        swa_ratio=swa_ratio,
        hybrid_ratio=_hybrid_ratio(request),
        hybrid_off=request.has_flag("--disable-hybrid-swa-memory"),
        radix_cache=not request.has_flag("--disable-radix-cache"),
        # A pipeline runs without it (_handle_pipeline_parallelism).
        overlap=not request.has_flag("--disable-overlap-schedule") and request.int_flag(1, *PIPELINE) == 1,
        multimodal=_multimodal(request),
        mamba_ratio=request.float_flag(0.9, "--mamba-full-memory-ratio"),
        mamba_slots=_optional_int(request, "--max-mamba-cache-size"),
        hicache=hicache,
        cpu_offload_bytes=request.int_flag(0, "--cpu-offload-gb") * GIB,
        pipeline_stages=request.int_flag(1, *PIPELINE),
        attention_groups=attention_groups(request),
        context_ranks=_context_ranks(request),
        adapters=read_adapters(request, rules),
        state_dtype=_state_dtype(request),
        speculation=speculation,
    )


def passed_on(flags: EngineFlags) -> tuple[str, ...]:
    """Words of the flags farspan does not write itself, as given."""
    words: list[str] = []
    for name, value in split_environment(flags)[0].items():
        if name in _WRITTEN_BY_FARSPAN:
            continue
        if value is not None and name.startswith("--cuda-graph-bs"):
            words += [name, *value.split()]
        else:
            words += flag_words(name, value)
    return tuple(words)


def _refuse(request: PlanRequest, rules: SglangRules) -> None:
    """Raise for flags that contradict the request or whose effect is not mirrored."""
    check_flags(request, rules)
    _check_experts(request)
    if request.has_flag(*_TP) and request.int_flag(0, *_TP) != request.tp:
        raise InputError(f"--tp-size {request.text_flag('', *_TP)} contradicts --tp {request.tp}", "give one")
    if request.has_flag("--hybrid-kvcache-ratio") and not rules.hybrid_flag:
        raise InputError(
            f"--hybrid-kvcache-ratio does nothing any more in sglang {rules.version}",
            "use --swa-full-tokens-ratio 0.05 instead",
        )
    page = _optional_int(request, "--page-size")
    if request.has_flag("--hybrid-kvcache-ratio") and page not in (None, 1):
        raise InputError("--hybrid-kvcache-ratio needs page size 1", "drop --page-size")
    chunk = _optional_int(request, "--chunked-prefill-size")
    if page and chunk and chunk > 0 and chunk % page:
        raise InputError(
            f"--chunked-prefill-size {chunk} is not a multiple of --page-size {page}", "round it to one"
        )


def _check_speculation(request: PlanRequest, speculation: Speculation | None) -> None:
    """Raise for what does not go beside speculative decoding, in SGLang or in what is mirrored of it."""
    if speculation is None:
        return
    if request.has_flag("--enable-lora") and speculation.drafts_with_a_model:
        raise InputError("SGLang takes LoRA beside NGRAM drafts alone", "drop --enable-lora")
    if request.int_flag(1, *PIPELINE) > 1:
        raise InputError("SGLang's pipeline stages do not draft", f"drop {PIPELINE[0]}")
    if attention_groups(request) > 1 or request.int_flag(1, *_CONTEXT_RANKS) > 1:
        raise UnsupportedError(
            "speculative decoding beside data-parallel attention or --dcp-size is not mirrored",
            "plan without one of them",
        )


def asks_for_groups(request: PlanRequest) -> bool:
    """Whether data parallelism, of attention or of whole servers, is asked for by hand."""
    return request.has_flag(*_ATTENTION_GROUPS, *_DATA_PARALLEL)


def attention_groups(request: PlanRequest) -> int:
    """Groups of ranks with a KV cache of their own; 1 without data-parallel attention.

    Raises:
        InputError: The ranks cannot be divided so.
    """
    names = _DATA_PARALLEL if request.has_flag("--enable-dp-attention") else ()
    groups = request.int_flag(1, *_ATTENTION_GROUPS, *names)
    if groups < 1 or request.tp % groups:
        raise InputError(
            f"data-parallel attention in {groups} groups does not divide {request.tp} ranks",
            f"give a number of groups that divides {request.tp}",
        )
    return groups


def _context_ranks(request: PlanRequest) -> int:
    """Ranks that share the tokens of one KV cache out between them.

    Raises:
        InputError: The ranks cannot be divided so.
        UnsupportedError: The model's cache is not one latent a token.
    """
    ranks = request.int_flag(1, *_CONTEXT_RANKS)
    if ranks == 1:
        return 1
    if ranks < 1 or request.tp % ranks:
        raise InputError(
            f"--dcp-size {ranks} does not divide {request.tp} ranks", "give one that divides them"
        )
    if any(layer.attention is not AttentionKind.MLA or layer.indexer for layer in request.model.layers):
        raise UnsupportedError(
            f"--dcp-size (decode context parallelism) is mirrored for MLA alone, and {request.model.name} has other "
            "layers",
            "plan without --dcp-size",
        )
    return ranks


def _check_experts(request: PlanRequest) -> None:
    """Experts are shared out over ranks whole or in pieces: a rank holds as many bytes either way."""
    ranks = request.int_flag(1, *EXPERT_RANKS)
    experts = max((layer.moe.num_experts for layer in request.model.layers if layer.moe), default=0)
    if ranks < 1 or request.tp % ranks or (ranks > 1 and experts % ranks):
        raise InputError(
            f"--ep-size {ranks} does not divide {request.tp} ranks and {experts} experts",
            f"give one that divides both, such as --ep-size {request.tp}",
        )


def _optional_int(request: PlanRequest, *names: str) -> int | None:
    return request.int_flag(0, *names) if request.has_flag(*names) else None


def _max_requests(request: PlanRequest) -> int | None:
    """SGLang ends at its start with a limit that is not positive (managers/tp_worker.py)."""
    most = _optional_int(request, *MAX_REQUESTS)
    if most is not None and most < 1:
        raise InputError(f"--max-running-requests {most} lets no request run", "give at least 1")
    return most


def _batch_sizes(request: PlanRequest) -> tuple[int, ...]:
    """The list after --cuda-graph-bs: digits apart by spaces or commas."""
    text = request.text_flag("", "--cuda-graph-bs-decode", "--cuda-graph-bs")
    try:
        sizes = tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        sizes = (0,)
    if any(size < 1 for size in sizes):
        raise InputError(f"--cuda-graph-bs {text!r} is not a list of sizes", "write it as '1 2 4 8'")
    return sizes


def _hybrid_ratio(request: PlanRequest) -> float | None:
    """`--hybrid-kvcache-ratio`: the bare flag means 0.5 (sglang 0.5.6.post2 server_args.py)."""
    if not request.has_flag("--hybrid-kvcache-ratio"):
        return None
    if request.engine_flags["--hybrid-kvcache-ratio"] is None:
        return 0.5
    ratio = request.float_flag(0.5, "--hybrid-kvcache-ratio")
    if not 0 <= ratio <= 1:
        raise InputError(f"--hybrid-kvcache-ratio {ratio} is not between 0 and 1", "write it as 1")
    return ratio


def _state_dtype(request: PlanRequest) -> str:
    """The type of recurrent states: float32 whatever the model's is (sglang srt/configs/mamba_utils.py:
    mamba2_state_dtype). From 0.5.9 on a config's own `mamba_ssm_dtype` goes before; those published say float32.
    """
    text = request.text_flag("float32", "--mamba-ssm-dtype")
    if text not in _STATE_DTYPES:
        raise InputError(
            f"--mamba-ssm-dtype {text!r} is none of SGLang's", f"choose one of {', '.join(_STATE_DTYPES)}"
        )
    return text


def _multimodal(request: PlanRequest) -> bool | None:
    if request.has_flag("--language-only", "--language-model-only"):
        return False
    return True if request.has_flag("--enable-multimodal") else None


def _kv_dtype(request: PlanRequest) -> KvDtype:
    """The KV dtype SGLang is started with; the spelling is SGLang's, or vLLM's for the same thing."""
    text = request.text_flag("", "--kv-cache-dtype")
    if text:
        if text not in _KV_NAMES:
            raise InputError(
                f"--kv-cache-dtype {text} is not mirrored for SGLang", f"choose one of {', '.join(_KV_NAMES)}"
            )
        return _KV_NAMES[text]
    wanted = request.kv_dtype
    if wanted is KvDtype.FP8:
        return KvDtype.FP8_E4M3
    if wanted is KvDtype.FP8_DS_MLA:
        # SGLang lays sparse-MLA FP8 out the same way (656 bytes), under the name fp8_e4m3.
        if any(layer.indexer for layer in request.model.layers_of(AttentionKind.MLA)):
            return KvDtype.FP8_E4M3
        raise InputError("SGLang has no fp8_ds_mla KV cache", "use fp8_e4m3")
    if wanted is KvDtype.FLOAT16:
        if request.model.torch_dtype == "float16":
            return KvDtype.AUTO
        raise InputError("SGLang has no float16 KV cache for a bfloat16 model", "use auto or fp8_e4m3")
    return wanted
