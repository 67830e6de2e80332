"""What SGLang chooses when a flag is not given: chunk, graph sizes, attention backend, page, fraction.

Mirrors `ServerArgs._handle_gpu_memory_settings` and `_handle_attention_backend_compatibility`
(0.5.6.post2, 0.5.16 srt/server_args.py) and `handle_gpu_memory_settings`, `get_default_attn_backend`
(0.5.23 srt/arg_groups/memory_hook.py, model_override_base.py).
"""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.sglang.flags import SglangFlags
from farspan.engines.sglang.versions import SglangRules
from farspan.errors import InputError
from farspan.hardware.gpu import Gpu
from farspan.models.spec import AttentionKind, KvDtype, ModelSpec
from farspan.models.tensors import WeightPart

MIB = 2**20

# `nvidia-smi --query-gpu=memory.total`, MiB, which SGLang's size classes and default fraction use. H200's
# is measured; the others are as these cards commonly report. Others are taken as 0.5 % above torch's.
_SMI_MIB = {
    "H200": 143771,
    "H100": 81559,
    "A100-80GB": 81920,
    "A100-40GB": 40960,
    "B200": 183359,
    "L40S": 46068,
}
# (upper bound in MiB, chunked prefill, graph batch below TP 4, graph batch from TP 4)
_SIZE_CLASSES = (
    (20 * 1024, 2048, 8, 8),
    (35 * 1024, 2048, 24, 80),
    (60 * 1024, 4096, 32, 160),
    (90 * 1024, 8192, 256, 512),
    (160 * 1024, 8192, 256, 512),
)
_LARGEST_CLASS = (16384, 512, 512)
_SMALL_CARD_SINCE_0_5_20 = (4096, 48, 160)  # 20 to 35 GiB
# More than any server captures; each size is a graph of its own, every 512 tokens of a prefill.
_LARGEST_CAPTURE = 2**26
_FA3_BEFORE_0_5_8 = frozenset(
    {
        "Llama4ForConditionalGeneration",
        "LlamaForCausalLM",
        "Olmo2ForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForConditionalGeneration",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
        "Glm4MoeForCausalLM",
        "Glm4vForConditionalGeneration",
        "Glm4vMoeForConditionalGeneration",
        "Step3VLForConditionalGeneration",
    }
)
_LLAMA4_BACKENDS = frozenset({"fa3", "aiter", "triton", "trtllm_mha", "intel_xpu"})
LONG_CONTEXT = 8192  # above it AITER takes 15 % off the fraction
TEXT_ONLY_BY_DEFAULT = frozenset(
    {"Gemma3ForConditionalGeneration", "Llama4ForConditionalGeneration", "Step3VLForConditionalGeneration"}
)

_VIT_LAYERS, _VIT_WIDTH = 24, 1024
_DEPTH_TOWERS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v")


class Resolved(NamedTuple):
    """What the server runs with once SGLang has filled in its defaults; nothing here depends on the context.

    Args:
        kv_dtype: The KV type after model defaults.
        mem_fraction_static: Share of the free memory before loading that weights and pools may take.
        fraction_is_default: Whether SGLang chose it.
        chunked_prefill_size: Tokens of one prefill chunk; -1 for none.
        attention_backend: The prefill backend.
        decode_backend: The decode backend, whose graph state is allocated.
        page_size: Tokens a page.
        graph_bs: Batch sizes captured before the clamp to the request slots; empty when decode runs eager.
        prefill_graph_sizes: Token counts captured for prefill; 0 when it runs eager.
        prefill_graph_tokens: The largest of them.
        multimodal: Whether the vision tower is loaded.
    """

    kv_dtype: KvDtype
    mem_fraction_static: float
    fraction_is_default: bool
    chunked_prefill_size: int
    attention_backend: str
    decode_backend: str
    page_size: int
    graph_bs: tuple[int, ...]
    prefill_graph_sizes: int
    prefill_graph_tokens: int
    multimodal: bool


def context_length_of(given: SglangFlags, model: ModelSpec, context: int) -> int:
    """The server's limit on prompt and answer together, in tokens: `context` unless a flag sets it.

    Raises:
        InputError: It is not positive, or above what the model allows.
    """
    length = context if given.context_length is None else given.context_length
    if length < 1:
        raise InputError(
            f"--context-length {length} takes no token", "give the tokens of the longest request"
        )
    if length > model.max_position_embeddings:
        raise InputError(
            f"--context-length {length} is above the {model.max_position_embeddings} tokens of {model.name}",
            f"ask for at most {model.max_position_embeddings}",
        )
    return length


def resolve(
    given: SglangFlags, model: ModelSpec, gpu: Gpu, tp: int, rules: SglangRules, *, long_context: bool
) -> Resolved:
    """Fill in what was not given. Of the context length, only its being above `LONG_CONTEXT` matters.

    Raises:
        InputError: SGLang would refuse the combination.
    """
    smi = smi_mib(gpu)
    chunk, graph_max = _size_class(smi, tp, rules)
    chunk = chunk if given.chunked_prefill_size is None else given.chunked_prefill_size
    if rules.graph_bs_follows_requests and given.max_running_requests is not None:
        graph_max = min(graph_max, given.max_running_requests)
    graph_max = graph_max if given.graph_max_bs is None else given.graph_max_bs
    graph_bs = given.graph_bs or capture_batch_sizes(
        graph_max, always_include_max=rules.always_captures_largest
    )
    multimodal = given.multimodal if given.multimodal is not None else _is_multimodal(model)
    prefill_sizes = prefill_tokens = 0
    if given.prefill_graphs and chunk > 0 and not multimodal and _captures_prefill(given, model, gpu, rules):
        captured = prefill_capture_sizes(_largest_prefill_graph(given, model, chunk, rules))
        prefill_sizes, prefill_tokens = len(captured), max(captured, default=0)
    asked = KvDtype.FP8_E4M3 if given.kv_dtype is KvDtype.AUTO and model.kv_fp8 else given.kv_dtype
    kv_dtype = _dsa_dtype(asked, model, gpu)
    common = given.attention_backend or default_backend(model, gpu, rules, deterministic=given.deterministic)
    if common == "fa3" and kv_dtype is KvDtype.FP8_E5M2:
        common = "triton"  # FA3 reads E4M3 only
    backend = given.prefill_backend or common
    if model.architecture.startswith("Llama4") and backend not in _LLAMA4_BACKENDS:
        raise InputError(f"SGLang refuses --attention-backend {backend} for Llama 4", "use fa3 or triton")
    decode = given.decode_backend or common
    if (
        rules.hicache_moves_decode
        and given.hicache
        and given.hicache.io_backend == "kernel"
        and not given.decode_backend
    ):
        # 0.5.6.post2 server_args.py: _handle_hicache
        decode = "triton" if _uses_mla(model) and gpu.capability[0] != 10 else "flashinfer"
    if "triton" in (backend, decode) and kv_dtype is KvDtype.FP8_E4M3 and _cannot_read_e4m3(gpu):
        raise InputError(
            f"SGLang's triton kernels read no fp8_e4m3 KV cache on {gpu.name}, whose compute capability is below 8.9",
            "use fp8_e5m2 or bfloat16",
        )
    decodes_in_graphs = given.decode_graphs and decode not in ("torch_native", "flex_attention")
    fraction = given.mem_fraction_static
    if fraction is None:
        # Up to 0.5.13 it reserves for graphs even when they are off.
        reserved_bs = (
            max(given.graph_bs, default=graph_max)
            if decodes_in_graphs or rules.reserves_for_graphs_off
            else 0
        )
        fraction = default_fraction(
            smi,
            chunk,
            given.max_prefill_tokens,
            reserved_bs,
            tp * given.pipeline_stages,
            _prefill_reserve_mib(model, prefill_sizes) + _groups_reserve_mib(given, reserved_bs),
            given.speculation.reserved_mib(rules) if given.speculation else 0,
        )
        if multimodal:
            fraction *= _vision_factor(model)
    if decode == "aiter" and long_context:
        fraction *= 0.85
    return Resolved(
        kv_dtype=kv_dtype,
        mem_fraction_static=fraction,
        fraction_is_default=given.mem_fraction_static is None,
        # Each group of data-parallel attention takes its share (_handle_data_parallelism).
        chunked_prefill_size=chunk // given.attention_groups if chunk > 0 else chunk,
        attention_backend=backend,
        decode_backend=decode,
        page_size=_page_size(given, model, backend, decode, rules),
        graph_bs=graph_bs if decodes_in_graphs else (),
        prefill_graph_sizes=prefill_sizes,
        prefill_graph_tokens=prefill_tokens,
        multimodal=multimodal,
    )


def smi_mib(gpu: Gpu) -> float:
    """MiB as nvidia-smi reports them."""
    return _SMI_MIB.get(gpu.name, gpu.memory_bytes * 1.005 / MIB)


def default_fraction(
    smi: float,
    chunk: int,
    max_prefill: int,
    graph_bs: int,
    tp: int,
    prefill_graphs_mib: float,
    draft_mib: float = 0,
) -> float:
    """`--mem-fraction-static` when none is given: 1 - reserve/total, the reserve in MiB by rule of thumb."""
    reserved = 512 + max(chunk if chunk > 0 else max_prefill, 2048) * 1.5 + graph_bs * 2
    reserved += tp / 8 * 1024 + prefill_graphs_mib
    if smi > 60 * 1024:
        reserved = max(reserved, 10 * 1024)
    reserved += draft_mib
    return round((smi - reserved) / smi, 3)


def capture_batch_sizes(largest: int, *, always_include_max: bool) -> tuple[int, ...]:
    """Decode batch sizes captured as CUDA graphs (`generate_decode_cuda_graph_batch_sizes`).

    Raises:
        InputError: They are more than any server captures.
    """
    _check_captures(largest, "--cuda-graph-max-bs")
    sizes = [1, 2, 4, 8, 12, *range(16, 257, 8), *range(272, 512, 16), *range(512, largest + 1, 32)]
    kept = [size for size in sizes if size <= largest]
    if always_include_max and largest not in kept:
        kept.append(largest)
    return tuple(kept)


def prefill_capture_sizes(largest: int) -> tuple[int, ...]:
    """Token counts captured for prefill (`generate_prefill_cuda_graph_batch_sizes`).

    Raises:
        InputError: They are more than any server captures.
    """
    _check_captures(largest, "the prefill chunk or --cuda-graph-max-bs-prefill")
    sizes = [
        *range(4, 33, 4),
        *range(48, 257, 16),
        *range(288, 513, 32),
        *range(576, 1025, 64),
        *range(1280, 4097, 256),
        *range(4608, largest + 1, 512),
    ]
    return tuple(size for size in sizes if size <= largest)


def _check_captures(largest: int, flag: str) -> None:
    if largest > _LARGEST_CAPTURE:
        raise InputError(
            f"SGLang would capture CUDA graphs for sizes up to {largest:,} ({flag})",
            f"give at most {_LARGEST_CAPTURE:,}",
        )


def default_backend(model: ModelSpec, gpu: Gpu, rules: SglangRules, *, deterministic: bool = False) -> str:
    """The attention backend SGLang picks for a model on a GPU."""
    arch, major = model.architecture, gpu.capability[0]
    amd = gpu.capability == (0, 0)
    if arch.startswith("Llama4") or arch == "GptOssForCausalLM":
        return {10: "trtllm_mha", 9: "fa3"}.get(major, "aiter" if amd and rules.newest_api else "triton")
    if arch.startswith("Gemma4"):
        return "trtllm_mha" if major == 10 else "triton"
    if arch.startswith("MiMoV2") and major == 10:
        return "fa4"
    if deterministic:  # _deterministic_attention_backend
        return "fa3" if major < 10 else "triton" if _uses_mla(model) else "flashinfer"
    if _uses_mla(model):
        if _is_dsa(model):
            return rules.sparse_backend
        if major == 10:
            return "trtllm_mla" if arch == "DeepseekV3ForCausalLM" else "flashinfer"
        return "fa3" if major == 9 else "triton"
    if major == 9 and (rules.fa3_for_all or arch in _FA3_BEFORE_0_5_8):
        return "fa3"
    if major == 10 or (major == 12 and rules.trtllm_on_sm120):
        return "trtllm_mha"
    return "aiter" if amd else "flashinfer"


def _cannot_read_e4m3(gpu: Gpu) -> bool:
    """Whether Triton compiles no load of E4M3 for a card (decode_attention.py loads keys as they are stored)."""
    return not gpu.is_amd and (7, 0) <= gpu.capability < (8, 9)


def _size_class(smi: float, tp: int, rules: SglangRules) -> tuple[int, int]:
    """Chunk and largest graph batch for a card's size."""
    for upper, chunk, small, large in _SIZE_CLASSES:
        if smi < upper:
            if upper == 35 * 1024 and rules.small_cards_grew:
                chunk, small, large = _SMALL_CARD_SINCE_0_5_20
            return chunk, small if tp < 4 else large
    chunk, small, large = _LARGEST_CLASS
    return chunk, small if tp < 4 else large


def _page_size(given: SglangFlags, model: ModelSpec, backend: str, decode: str, rules: SglangRules) -> int:
    """The page after the backends' own constraints."""
    used = {backend, decode}
    page = given.page_size or 1
    if used & {"nsa", "dsa", "flashmla"}:
        return 64
    if "cutlass_mla" in used:
        return 128
    if "trtllm_mla" in used and page not in (32, 64):
        return 64
    if "trtllm_mha" in used and page not in ((16, 32, 64, 128) if rules.trtllm_page_128 else (16, 32, 64)):
        return 64
    if backend == "fa4" and not _uses_mla(model):
        return 128
    return page


def _dsa_dtype(asked: KvDtype, model: ModelSpec, gpu: Gpu) -> KvDtype:
    """Sparse MLA defaults to FP8 on Blackwell."""
    if asked is KvDtype.AUTO and _is_dsa(model):
        return KvDtype.FP8_E4M3 if gpu.capability[0] >= 10 else KvDtype.BFLOAT16
    return asked


def _uses_mla(model: ModelSpec) -> bool:
    return any(layer.attention is AttentionKind.MLA for layer in model.layers)


def _is_dsa(model: ModelSpec) -> bool:
    return any(layer.indexer is not None for layer in model.layers_of(AttentionKind.MLA))


def _is_multimodal(model: ModelSpec) -> bool:
    return model.has_vision and model.architecture not in TEXT_ONLY_BY_DEFAULT


def _vision_factor(model: ModelSpec) -> float:
    """What the default fraction is multiplied by: 0.95, less for a tower larger than ViT-L
    (`adjust_mem_fraction_for_vlm`, which reads the vision config's num_hidden_layers and hidden_size)."""
    layers = max(
        (weight.copies for weight in model.weights if weight.part is WeightPart.VISION), default=_VIT_LAYERS
    )
    width = model.image.hidden_size if model.image else _VIT_WIDTH
    if model.model_type.startswith(_DEPTH_TOWERS):
        layers = _VIT_LAYERS  # their configs call it depth, which is not read
    if model.model_type == "qwen2_vl":
        width = model.hidden_size  # its vision config's hidden_size is the language model's
    ratio = layers * width**2 / (_VIT_LAYERS * _VIT_WIDTH**2)
    return 0.95 * max(0.8, min(1.05, 1.0 - 0.1 * (ratio - 1.0)))


def _captures_prefill(given: SglangFlags, model: ModelSpec, gpu: Gpu, rules: SglangRules) -> bool:
    """Prefill graphs are off for recurrent layers of the KDA kind and for compressed attention, in some versions for
    MLA, and where they are compiled (0.5.10 to 0.5.13) for what torch.compile cannot take."""
    if _uses_mla(model) and not rules.prefill_graphs_with_mla:
        return False
    if given.attention_groups > 1 or given.pipeline_stages > 1 or given.context_ranks > 1:
        return False
    if given.adapters is not None and not rules.prefill_graphs_with_lora:
        return False
    if given.speculation is not None and not rules.prefill_graphs_with_drafts:
        return False
    if rules.prefill_graphs_compiled and (
        given.deterministic or given.hicache or given.cpu_offload_bytes or gpu.capability == (0, 0)
    ):
        return False
    kinds = {layer.attention for layer in model.layers}
    return AttentionKind.COMPRESSED not in kinds and "Kimi" not in model.architecture


def _groups_reserve_mib(given: SglangFlags, graph_bs: int) -> float:
    """What data-parallel attention reserves for its padded batches."""
    if given.attention_groups == 1:
        return 0.0
    return graph_bs * given.attention_groups * (4.5 if graph_bs > 300 else 3.0)


def _largest_prefill_graph(given: SglangFlags, model: ModelSpec, chunk: int, rules: SglangRules) -> int:
    """The most tokens captured for prefill: a chunk; up to 0.5.13 at most 2048 with MLA."""
    if given.prefill_graph_max is not None:
        return given.prefill_graph_max
    return min(chunk, 2048) if _uses_mla(model) and not rules.newest_api else chunk


def _prefill_reserve_mib(model: ModelSpec, sizes: int) -> float:
    """`reserve_for_graph_mb`: 8 MiB a captured size, or 1.5 GiB with MLA."""
    if not sizes:
        return 0.0
    return 1.5 * 1024 if _uses_mla(model) else sizes * 8.0
