"""What vLLM's profile run measures: the peak of torch's allocator, and what is taken outside it.

The run pushes the largest images through the vision tower, one step of max_num_batched_tokens through the model,
and max_num_seqs rows through the sampler (v1/worker/gpu_model_runner.py: profile_run). What is alive at each of
these moments is read off that code; the bytes a logit takes, and everything outside torch, are fitted to servers
whose logs are public (docs/accuracy.md).
"""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.vllm.config import VllmConfig
from farspan.engines.vllm.defaults import BatchLimits, on_second_runner
from farspan.models.image_item import ImageItem
from farspan.models.spec import LayerSpec, ModelSpec
from farspan.planner.calibration import memory_of
from farspan.sizes import GIB

# cuBLAS workspace and the runner's own buffers, alive beside any peak (46 servers, vLLM 0.19.0).
BUFFER_BYTES = int(0.045 * GIB)
# Widths of the hidden state alive in a layer: residual, input, normed input, output (CodeLlama, Granite).
_HIDDEN_COPIES = 4.25
_GATED_COPIES = 3  # gate and up in one tensor, and their product
_PLAIN_COPIES = 2  # of a vision tower's MLP
# A tower that rotates queries and keys (qwen2_5_vl.py: Qwen2_5_VisionAttention.forward): whole widths alive in its
# attention (input, normed input, positions), and those that ranks share out: QKV, queries and keys once more,
# rotated, and what they attend to; in float32 before 0.12.0, its result beside its input.
_TOWER_WHOLE, _TOWER_SHARED, _TOWER_SHARED_FLOAT32 = 3, 8, 13
# MLA's chunked prefill workspace at most (mla_attention.py: determine_chunked_prefill_workspace_size).
_LATENT_WORKSPACE_TOKENS = 65536
# Kernels and handles outside torch: H100 servers with one GPU printed 0.07 to 0.17, from 0.18.0 on 0.24 to 0.27.
_OUTSIDE_TORCH_OLD, _OUTSIDE_TORCH_NEW = int(0.22 * GIB), int(0.25 * GIB)
# The same before Hopper (four servers on A100, compiled and eager: 0.10 to 0.13), on consumer Blackwell (Qwen3.5-9B
# on one RTX 5090, 0.18.0) and on AMD (one MI300X).
_OUTSIDE_TORCH_AMPERE, _OUTSIDE_TORCH_SM120, _OUTSIDE_TORCH_AMD = (
    int(0.12 * GIB),
    int(0.54 * GIB),
    int(1.44 * GIB),
)
# Consumer Blackwell from 0.20.0 on: Qwen3.6-35B-A3B on one RTX 5090, less FlashInfer's workspace (flashinfer.py).
_OUTSIDE_TORCH_SM120_NEW = int(0.155 * GIB)
# Collectives over NVLink in a compiled model: 0.10.2 on 2x H200, 0.12.0 on 8x H200, 0.19.0 on 2x and 4x H100.
_COLLECTIVES_OLD, _COLLECTIVES_OLD_EIGHT, _COLLECTIVES_NEW = int(1.16 * GIB), int(0.52 * GIB), int(1.83 * GIB)
# Collectives without a path from GPU to GPU (Qwen3.5-9B on 2x RTX 5090).
_COLLECTIVES_SM120 = int(0.7 * GIB)
# The rejection sampler's logits and probabilities beside the sampler's (Qwen3.5-9B with MTP, one RTX 5090).
_DRAFT_LOGIT_BYTES = 17
# FlashInfer's sampler, compiled at the first profile run: one server (0.24.0, one H200).
_FLASHINFER_SAMPLER = int(1.75 * GIB)


# Decoders whose norms scale by 1 + weight, which is in float32 then (vllm 0.24.0 layers/layernorm.py: GemmaRMSNorm).
_FLOAT32_NORMS = frozenset(
    {
        "GemmaForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
        "Rnj1ForCausalLM",
        "Step3p5ForCausalLM",
        "Qwen3NextForCausalLM",
        "Qwen3_5ForCausalLM",
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
    }
)
# Widths alive in such a norm after attention where nothing fuses it: what came into the layer and its residual,
# which the loop over layers holds, what comes into the norm with its residual, and their sum; in float32 that sum,
# the normed one and the scaled one (ir/ops/layernorm.py: fused_add_rms_norm).
NORM_WIDTHS, NORM_WIDTHS_FLOAT32 = 5, 3
# cuBLAS keeps it from the first product on (torch aten/src/ATen/cuda/CublasHandlePool.cpp, Hopper).
CUBLAS_WORKSPACE_BYTES = 32 * 2**20


class ProfileRun(NamedTuple):
    """What the profile run takes, in bytes.

    Args:
        forward: Peak of one step through the layers.
        norm: Peak of a norm that runs in float32, operation by operation; 0 where none does.
        sampler: Peak of the sampler, the hidden states of that step included.
        workspace: Buffers of the experts, kept from the step on.
        images: Inputs and outputs of the vision tower, kept until the run ends.
        encoder: Peak of the vision tower while it works.
        base: Kernels, handles and the sampler's modules outside torch.
        collectives: What ranks exchange tokens with, outside torch.
    """

    forward: int
    norm: int
    sampler: int
    workspace: int
    images: int
    encoder: int
    base: int
    collectives: int

    @property
    def step(self) -> int:
        """The largest of the forward pass, its norms and the sampler."""
        return max(self.forward, self.norm, self.sampler)

    @property
    def largest(self) -> str:
        """Which of the three that is: "norm", "forward" or "sampler"."""
        sizes = {"norm": self.norm, "forward": self.forward, "sampler": self.sampler}
        return max(sizes, key=sizes.__getitem__)

    @property
    def torch_peak(self) -> int:
        """Peak of torch's allocator above the weights."""
        return max(self.images + self.workspace + self.step, self.encoder)

    @property
    def non_torch(self) -> int:
        """Everything outside torch's allocator."""
        return self.base + self.collectives

    @property
    def total(self) -> int:
        """Everything the budget loses to it."""
        return self.torch_peak + self.non_torch


def sampler_logit_bytes(config: VllmConfig) -> float:
    """Bytes a logit takes at the sampler's peak."""
    model, rules = config.model, config.rules
    if on_second_runner(model, rules):
        return model.dtype_bytes * (1 if config.tp == 1 else 2) + rules.second_sampler_bytes
    return model.dtype_bytes + rules.sampler_bytes


def profile_run(config: VllmConfig, limits: BatchLimits) -> ProfileRun:
    """Predict what vLLM's profile run measures (gpu_worker.py: determine_available_memory)."""
    model = config.model
    hidden = limits.tokens * model.hidden_size * model.dtype_bytes
    rows = min(limits.requests, limits.tokens)
    sampler = 0
    if config.last_stage:
        logits = int(rows * model.vocab_size * sampler_logit_bytes(config))
        if config.given.draft_tokens:
            logits += rows * model.vocab_size * _DRAFT_LOGIT_BYTES
        sampler = logits + hidden + rows * model.hidden_size * model.dtype_bytes + BUFFER_BYTES
    forward = max(
        (_layer_bytes(config, layer, limits.tokens) for layer in _distinct(model.layers)), default=0.0
    )
    forward += limits.tokens * _layer_inputs(model) * model.dtype_bytes
    between = 0 if config.pp == 1 else 2 * hidden
    images, encoder = _image_bytes(config, limits)
    base, collectives = _outside_torch(config)
    return ProfileRun(
        forward=int(forward) + between + (0 if config.pp == 1 else BUFFER_BYTES),
        norm=_norm_bytes(config, limits.tokens),
        sampler=sampler,
        workspace=max(
            (_workspace(config, layer, limits.tokens) for layer in _distinct(model.layers)), default=0
        ),
        images=images,
        encoder=encoder,
        base=base,
        collectives=collectives,
    )


def _distinct(layers: tuple[LayerSpec, ...]) -> list[LayerSpec]:
    """One layer of each shape."""
    found: dict[tuple[object, ...], LayerSpec] = {}
    for layer in layers:
        found.setdefault(
            (layer.attention, layer.num_heads, layer.num_kv_heads, layer.intermediate_size, layer.moe), layer
        )
    return list(found.values())


def _layer_inputs(model: ModelSpec) -> int:
    """Values of its own a token brings for every layer, alive through the step (Gemma: get_per_layer_inputs)."""
    return next((weight.shape[1] for weight in model.weights if weight.name == "embed_tokens_per_layer"), 0)


def _layer_bytes(config: VllmConfig, layer: LayerSpec, tokens: int) -> float:
    """Most bytes alive in one layer of the step, the experts' kept buffers left out."""
    model, tp = config.model, config.tp
    width = tokens * model.dtype_bytes
    mlp = layer.intermediate_size or (layer.moe.shared_intermediate_size if layer.moe else 0)
    if mlp and tp > 1:
        mlp = -(-mlp // tp)
    peak = width * (_GATED_COPIES * mlp + _HIDDEN_COPIES * model.hidden_size)
    heads = layer.num_heads / tp
    if layer.latent is not None:
        latent = layer.latent
        workspace = min(_LATENT_WORKSPACE_TOKENS, max(8 * model.max_position_embeddings, tokens))
        expanded = workspace * heads * (latent.nope_dim + latent.value_dim) * model.dtype_bytes
        query = width * heads * (latent.nope_dim + latent.rope_dim + latent.value_dim)
        return max(peak, expanded + query + 2 * width * model.hidden_size)
    if layer.keeps_no_tokens and layer.shares_kv_with is None:
        return peak
    keys = layer.kv_heads_per_rank(tp) * (layer.head_dim + layer.value_head_dim)
    attention = width * (2 * model.hidden_size + 2 * heads * layer.head_dim + keys)
    return max(peak, attention)


def _norm_bytes(config: VllmConfig, tokens: int) -> int:
    """Most bytes alive in a norm that runs in float32, one operation after another."""
    model = config.model
    if (
        not (config.given.enforce_eager and config.rules.norms_in_float32)
        or model.architecture not in _FLOAT32_NORMS
    ):
        return 0
    widths = NORM_WIDTHS * model.dtype_bytes + NORM_WIDTHS_FLOAT32 * 4
    return tokens * model.hidden_size * widths + CUBLAS_WORKSPACE_BYTES


def _workspace(config: VllmConfig, layer: LayerSpec, tokens: int) -> int:
    """Buffers the fused experts keep between steps (fused_moe: TritonExperts.workspace_shapes).

    Before the workspace manager of 0.12.0 they were freed after each layer; the MXFP4 kernels keep none.
    """
    model, moe = config.model, layer.moe
    if moe is None or not config.rules.keeps_workspace or _has_mxfp4(model):
        return 0
    inner = moe.intermediate_size
    if not config.given.expert_parallel:
        inner = -(-inner // (config.tp * config.expert_replicas))
    gathered = tokens * config.expert_replicas
    widths = max(inner, model.hidden_size) + max(2 * inner, model.hidden_size)
    return gathered * moe.top_k * widths * model.dtype_bytes


def _has_mxfp4(model: ModelSpec) -> bool:
    return model.quantization is not None and model.quantization.method == "mxfp4"


def _image_bytes(config: VllmConfig, limits: BatchLimits) -> tuple[int, int]:
    """What the vision tower leaves behind, and its own peak (MultiModalBudget: get_encoder_budget)."""
    model, image = config.model, config.model.image
    if image is None or not config.given.images or not config.first_stage:
        return 0, 0
    items = max(1, limits.tokens // image.tokens)
    pixels = items * image.pixels * model.dtype_bytes
    kept = pixels + items * image.tokens * model.hidden_size * model.dtype_bytes
    at_once = 1 if image.one_by_one else items
    return kept, pixels + at_once * _tower_bytes(config, image)


def _tower_bytes(config: VllmConfig, image: ImageItem) -> int:
    """Peak of the tower on one rank: of its MLP or of its attention."""
    tp, hidden = 1 if config.given.whole_encoder else config.tp, image.hidden_size
    widths = _PLAIN_COPIES * image.intermediate_size / tp + _HIDDEN_COPIES * hidden
    if image.rotated:
        shared = _TOWER_SHARED_FLOAT32 if config.rules.tower_float32 else _TOWER_SHARED
        # What comes out is whole again on every rank: as it is, and as the ranks have added it up.
        whole = _TOWER_WHOLE + (1 if tp == 1 else 2)
        widths = max(widths, (whole + shared / tp) * hidden)
    return int(image.patches * config.model.dtype_bytes * widths)


def _outside_torch(config: VllmConfig) -> tuple[int, int]:
    """Kernels and handles, and collectives."""
    rules, gpu, given = config.rules, config.gpu, config.given
    base = _OUTSIDE_TORCH_NEW if rules.new_kernels else _OUTSIDE_TORCH_OLD
    compiled = not given.enforce_eager
    hopper, consumer = gpu.capability[0] == 9, gpu.capability[0] == 12
    if gpu.capability[0] == 8:
        base = _OUTSIDE_TORCH_AMPERE
    elif consumer:
        base = _OUTSIDE_TORCH_SM120_NEW if rules.subtracts_graphs else _OUTSIDE_TORCH_SM120
    elif gpu.is_amd:
        base = _OUTSIDE_TORCH_AMD
    if rules.flashinfer_sampler and given.flashinfer_sampler is not False and compiled and hopper:
        base += _FLASHINFER_SAMPLER
    memory = memory_of(config.calibration)
    if memory is not None:
        base = max(0, base + memory.outside_torch_bytes)
    if config.tp == 1 or not compiled:
        return base, 0
    if gpu.link == "PCIe":
        return base, _COLLECTIVES_SM120 if consumer else 0
    if rules.new_kernels:
        return base, _COLLECTIVES_NEW + int(0.03 * GIB) * (config.tp - 2)
    return base, _COLLECTIVES_OLD if config.tp < 8 else _COLLECTIVES_OLD_EIGHT
