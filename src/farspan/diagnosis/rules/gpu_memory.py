"""Out of GPU memory, whichever engine says so: what was being done when it ran out decides what helps."""

from __future__ import annotations

from farspan.engines.logs import out_of_memory as oom
from farspan.engines.logs.findings import Confidence, Severity
from farspan.engines.logs.lower_memory import eager_flags, lower_share, lower_shares, smaller_batch
from farspan.engines.logs.planned_server import planned
from farspan.engines.logs.records import StartPhase
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch
from farspan.engines.logs.server_state import ServerState

_OTHERS_GIB = 2.0
_CAPTURE = ("capture_model", "capture_end", "cuda_graph_runner", "cudagraph", "graphs.py", "graph_capture")
_VISION = (
    "embed_multimodal", "get_multimodal_embeddings", "mm_encoder_attention", "vision", "visual", "_vl.py", "vit.py",
    "_process_image_input", "get_image_features", "_execute_mm_encoder", "siglip", "clip",
)  # fmt: skip
_LOADING = (
    "load_model",
    "load_weights",
    "initialize_model",
    "create_weights",
    "model_loader",
    "process_weights_after_loading",
)


def _while(rule_match: RuleMatch, server_state: ServerState) -> str:
    """What was being done: capture, vision, loading, or empty."""
    if rule_match.raised_in(*_CAPTURE):
        return "capture"
    if rule_match.raised_in(*_VISION):
        return "vision"
    if rule_match.raised_in(*_LOADING):
        return "loading"
    if server_state.phase is StartPhase.GRAPHS:
        return "capture"
    early = server_state.phase in (
        None,
        StartPhase.CONFIG,
        StartPhase.ENGINE,
        StartPhase.DISTRIBUTED,
        StartPhase.WEIGHTS,
    )
    return "loading" if early and not server_state.figures.get("weights_gib") else ""


def _starting(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    if rule_match.was_ready:
        return None
    read = oom.read(rule_match.match)
    words, others = read.words(), read.others_gib
    if others is not None and others > _OTHERS_GIB:
        return Diagnosis(
            f"Out of GPU memory while starting ({words}): other processes hold {others:.1f} GiB of this GPU.",
            ("`nvidia-smi` shows who; end what is left of an earlier server",),
            Confidence.STRONG,
        )
    doing = _while(rule_match, server_state)
    if doing == "capture":
        return Diagnosis(
            f"There was no GPU memory left to capture CUDA graphs ({words}): weights and KV cache "
            f"took it. Graphs come on top of "
            "what the memory setting counts.",
            (
                lower_share(server_state),
                "fewer and smaller graphs: --max-num-seqs 8 (vLLM), --cuda-graph-max-bs 8 (SGLang)",
                f"{eager_flags(server_state)} starts without graphs (decode gets slower)",
            ),
            Confidence.STRONG,
        )
    if doing == "vision":
        return Diagnosis(
            f"Out of GPU memory in the vision encoder ({words}): the start is profiled with an image "
            f"(or video) of the largest size "
            "the model takes, and attention over it at once needs memory with the square of its "
            "patches where no flash attention "
            "is used.",
            (
                'limit what is taken: --limit-mm-per-prompt \'{"image": 1, "video": 0}\' (0 of both '
                "for text only), and smaller "
                "images: --mm-processor-kwargs '{\"max_pixels\": 1003520}'",
                "another attention for the encoder: --mm-encoder-attn-backend FLASH_ATTN (ROCm: "
                "install flash-attn, or "
                "VLLM_ROCM_USE_AITER=1), instead of SDPA",
                lower_share(server_state),
            ),
            Confidence.STRONG,
        )
    plan = planned(server_state)
    steps = plan.steps() if plan is not None else ()
    if doing == "loading":
        return Diagnosis(
            f"Out of GPU memory while loading the weights: they do not fit one GPU ({words}).",
            (
                *steps,
                f"a larger --tensor-parallel-size (SGLang: --tp-size) than {server_state.tp} spreads the "
                "weights; an FP8 or 4-bit "
                f"checkpoint halves or quarters them",
            ),
            Confidence.LIKELY,
        )
    return Diagnosis(
        f"Out of GPU memory while starting ({words}).",
        (*steps, lower_share(server_state), smaller_batch(server_state)),
        Confidence.LIKELY,
    )


CUDA_OOM_STARTING = Rule(
    id="cuda-oom-starting",
    means="Out of GPU memory while starting, for no reason a more exact rule knows.",
    severity=Severity.ERROR,
    pattern=oom.PATTERN,
    explain=_starting,
    sources=("vllm-project/vllm#15105", "sgl-project/sglang#4330"),
    general=True,
)


def _serving(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    if not rule_match.was_ready:
        return None
    words = oom.read(rule_match.match).words()
    fix = [f"{lower}: leaves more for activations" for lower in lower_shares(server_state)]
    fix.append(smaller_batch(server_state))
    if server_state.tp == 1 or server_state.is_on("disable_custom_all_reduce"):
        fix.append("PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True when much is reserved but unallocated")
    return Diagnosis(
        f"Out of GPU memory while serving ({words}): activations or a workspace needed more than the "
        f"start-up profile showed.",
        tuple(fix),
        Confidence.STRONG,
    )


CUDA_OOM_SERVING = Rule(
    id="cuda-oom-serving",
    means="Out of GPU memory while answering.",
    severity=Severity.ERROR,
    pattern=oom.PATTERN,
    explain=_serving,
    sources=("vllm-project/vllm#8879", "sgl-project/sglang#5372"),
)

RULES = (CUDA_OOM_STARTING, CUDA_OOM_SERVING)
