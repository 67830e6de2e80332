"""Memory of LoRA: buffers for so many adapters in every projection, made when the model is loaded, used or not.

Mirrors `create_lora_weights` of vllm lora/layers, 0.24.0 and later. Adapters themselves wait in the machine's memory.
"""

from __future__ import annotations

from typing import NamedTuple

from farspan.engines.vllm.versions import VllmRules
from farspan.errors import InputError, UnsupportedError
from farspan.models.lora import adapter_values
from farspan.models.spec import AttentionKind, ModelSpec
from farspan.models.tensors import DTYPE_BYTES
from farspan.planner.request import PlanRequest
from farspan.planner.versions import version_key

# The first release whose layers were read: which take adapters differs before, and there is room for added words.
_SINCE = "0.24.0"
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_LARGEST_VOCABULARY = 258_048  # lora/layers/logits_processor.py
# Classes with four packed projections a layer, and how many others take adapters: embedding and output head, or neither
# (`embedding_modules`; as 0.24.0 says and 0.32.0 makes them).
_CLASSES = {
    "LlamaForCausalLM": 2,
    "Qwen3ForCausalLM": 2,
    "GraniteForCausalLM": 2,
    "Exaone4ForCausalLM": 2,
    "Qwen2ForCausalLM": 0,
    "MistralForCausalLM": 0,
}
# Those seen where output head and embedding are one.
_TIED = frozenset({"LlamaForCausalLM", "Qwen3ForCausalLM"})
_DTYPES = {"auto": "", "float16": "float16", "bfloat16": "bfloat16"}
_OTHER_FLAGS = ("--enable-tower-connector-lora", "--enable-mixed-moe-lora-format", "--enable-moe-shared-loras",
                "--lora-target-modules", "--default-mm-loras", "--specialize-active-lora")  # fmt: skip


class Adapters(NamedTuple):
    """What was asked of LoRA.

    Args:
        slots: Adapters of one batch (--max-loras).
        rank: The largest rank (--max-lora-rank).
        sharded: Whether both halves are divided by tensor parallelism (--fully-sharded-loras).
        dtype: Their type; empty for the model's.
    """

    slots: int
    rank: int
    sharded: bool
    dtype: str


def read_adapters(request: PlanRequest, rules: VllmRules) -> Adapters | None:
    """Read the LoRA flags; None without --enable-lora.

    Raises:
        InputError: A value that vLLM refuses.
        UnsupportedError: A model or a flag whose adapters are not mirrored.
    """
    if not request.has_flag("--enable-lora"):
        return None
    if version_key(rules.version) < version_key(_SINCE):
        raise UnsupportedError(
            f"--enable-lora of vllm {rules.version} has buffers in layers that farspan does not mirror",
            f"plan with --engine-version {_SINCE} or newer, or without it",
        )
    for name in _OTHER_FLAGS:
        if request.has_flag(name):
            raise UnsupportedError(f"{name} changes which layers take adapters, which farspan does not mirror",
                                   f"plan without {name}")  # fmt: skip
    model = request.model
    shaped = all(
        layer.attention in (AttentionKind.FULL, AttentionKind.SLIDING_WINDOW) for layer in model.layers
    )
    if model.architecture not in _CLASSES or not shaped or any(layer.moe for layer in model.layers):
        raise UnsupportedError(
            f"--enable-lora is mirrored for {', '.join(sorted(_CLASSES))}, not for {model.architecture}",
            "plan without it, and leave room: two matrices a projection, adapter and rank",
        )
    words = _CLASSES[model.architecture]
    if words and model.tie_word_embeddings and model.architecture not in _TIED:
        raise UnsupportedError(
            f"--enable-lora of {model.architecture} with tied embeddings is not mirrored", "plan without it"
        )
    if words and model.vocab_size > _LARGEST_VOCABULARY:
        raise InputError(
            f"vLLM's LoRA takes vocabularies up to {_LARGEST_VOCABULARY:,}, and {model.name} has {model.vocab_size:,}",
            "drop --enable-lora",
        )
    slots, rank = request.int_flag(1, "--max-loras"), request.int_flag(16, "--max-lora-rank")
    if slots < 1 or rank not in _RANKS:
        raise InputError(
            f"--max-loras {slots} --max-lora-rank {rank} is refused by vLLM",
            f"give 1 or more, and a rank of {', '.join(map(str, _RANKS))}",
        )
    sharded = request.has_flag("--fully-sharded-loras")
    if sharded and rank % request.tp:
        raise InputError(
            f"--max-lora-rank {rank} does not divide by {request.tp} ranks", "drop --fully-sharded-loras"
        )
    dtype = request.text_flag("auto", "--lora-dtype")
    if dtype not in _DTYPES:
        raise InputError(f"--lora-dtype {dtype} is none of vLLM's", f"choose one of {', '.join(_DTYPES)}")
    return Adapters(slots, rank, sharded, _DTYPES[dtype])


def adapter_bytes(model: ModelSpec, adapters: Adapters | None, tp: int) -> int:
    """Bytes of the buffers on one rank."""
    if adapters is None:
        return 0
    width = DTYPE_BYTES[adapters.dtype] if adapters.dtype else model.dtype_bytes
    hidden, rank = model.hidden_size, adapters.rank
    read_rank, written = (rank // tp, hidden // tp) if adapters.sharded else (rank, hidden)
    values = sum(
        sum(adapter_values(layer, hidden, rank, tp, read_rank=read_rank, written=written))
        for layer in model.layers
    )
    # Whole on every rank: the embedding's, and the output head's.
    values += _CLASSES[model.architecture] * rank * (model.vocab_size + hidden)
    return adapters.slots * values * width
