"""Weights without meaning, of the right names, shapes and types, for an engine that loads nothing else.

They are small random numbers, one block of them repeated: written in pieces, never whole in memory.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from farspan.errors import UnsupportedError
from farspan.models.shard.rank_config import RankShard

WEIGHTS_FILE = "model.safetensors"
_FAMILIES = ("LlamaForCausalLM", "Llama4ForCausalLM")
_TYPES = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}
_BLOCK_VALUES = 2**20
_SCALE = 0.02


class DummyTensor(NamedTuple):
    """One tensor's name and shape."""

    name: str
    shape: tuple[int, ...]


def list_tensors(shard: RankShard) -> tuple[DummyTensor, ...]:
    """List the tensors of a shard's checkpoint, by the names transformers gives them.

    Raises:
        UnsupportedError: The model is none of the Llama family, or quantized.
    """
    spec, fields = shard.spec, shard.config
    if spec.architecture not in _FAMILIES or spec.quantization is not None:
        kept = "quantized " if spec.quantization is not None else ""
        raise UnsupportedError(
            f"no dummy weights are written for a {kept}{spec.architecture}",
            "use an engine that makes its own: vLLM and SGLang with --load-format dummy",
        )
    return tuple(_list(shard, fields))


def _list(shard: RankShard, fields: Mapping[str, Any]) -> Iterator[DummyTensor]:
    spec = shard.spec
    hidden, vocab = spec.hidden_size, spec.vocab_size
    yield DummyTensor("model.embed_tokens.weight", (vocab, hidden))
    if not spec.tie_word_embeddings:
        yield DummyTensor("lm_head.weight", (vocab, hidden))
    yield DummyTensor("model.norm.weight", (hidden,))
    block = "mlp" if spec.architecture == "LlamaForCausalLM" else "feed_forward"
    for layer in spec.layers:
        prefix = f"model.layers.{layer.index}"
        query, kv = layer.num_heads * layer.head_dim, layer.num_kv_heads * layer.head_dim
        for name, shape in {
            "q": (query, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, query),
        }.items():  # fmt: skip
            yield DummyTensor(f"{prefix}.self_attn.{name}_proj.weight", shape)
            if fields.get("attention_bias"):
                yield DummyTensor(f"{prefix}.self_attn.{name}_proj.bias", shape[:1])
        yield DummyTensor(f"{prefix}.input_layernorm.weight", (hidden,))
        yield DummyTensor(f"{prefix}.post_attention_layernorm.weight", (hidden,))
        if layer.moe is None:
            yield from _mlp(
                f"{prefix}.{block}", layer.intermediate_size, hidden, bool(fields.get("mlp_bias"))
            )
            continue
        count, width = layer.moe.num_experts, layer.moe.intermediate_size
        yield DummyTensor(f"{prefix}.{block}.router.weight", (count, hidden))
        yield DummyTensor(f"{prefix}.{block}.experts.gate_up_proj", (count, hidden, 2 * width))
        yield DummyTensor(f"{prefix}.{block}.experts.down_proj", (count, width, hidden))
        yield from _mlp(f"{prefix}.{block}.shared_expert", layer.moe.shared_intermediate_size, hidden, False)


def _mlp(name: str, width: int, hidden: int, bias: bool) -> Iterator[DummyTensor]:
    for projection, shape in {
        "gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)
    }.items():  # fmt: skip
        yield DummyTensor(f"{name}.{projection}_proj.weight", shape)
        if bias:
            yield DummyTensor(f"{name}.{projection}_proj.bias", shape[:1])


def write_dummy_weights(shard: RankShard, folder: Path, seed: int = 0) -> int:
    """Write the tensors into one safetensors file; return its bytes.

    Raises:
        UnsupportedError: See `list_tensors`.
    """
    import numpy as np

    kind, width = _TYPES[shard.spec.torch_dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    tensors = list_tensors(shard)
    for tensor in tensors:
        size = prod(tensor.shape) * width
        header[tensor.name] = {"dtype": kind, "shape": tensor.shape, "data_offsets": [at, at + size]}
        at += size
    numbers = np.random.default_rng(random.Random(seed).randrange(2**32))
    block = _encode(numbers.normal(0, _SCALE, _BLOCK_VALUES).astype(np.float32), kind)
    one = _encode(np.ones(_BLOCK_VALUES, np.float32), kind)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with (folder / WEIGHTS_FILE).open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors:
            source = one if "norm" in tensor.name else block
            left = prod(tensor.shape) * width
            while left > 0:
                left -= file.write(memoryview(source)[:left])
        return file.tell()


def _encode(values: Any, kind: str) -> bytes:
    import numpy as np

    if kind == "BF16":  # the upper half of a float32
        return bytes((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return bytes(values.astype(np.float16 if kind == "F16" else np.float32).tobytes())
