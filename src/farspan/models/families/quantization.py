"""Reading `quantization_config`: how many bits a weight takes, and which weights it reaches."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from farspan.models.families.config_fields import ConfigReader
from farspan.models.tensors import QuantSpec

# Fields of quantization_config that describe activations, calibration or packing, not stored bytes.
_NOT_STORED = (
    "activation_scheme",
    "activation_scale_ub",
    "backend",
    "damp_percent",
    "desc_act",
    "fmt",
    "global_compression_ratio",
    "kv_cache_scheme",
    "modules_to_fuse",
    "packing_format",
    "producer",
    "provider",
    "quantization_status",
    "registry_requires_subclass",
    "scale_fmt",
    "sparsity_config",
    "static_groups",
    "sym",
    "transform_config",
    "true_sequential",
    "version",
    "zero_point",
)


@dataclass(frozen=True)
class Quantization:
    """A QuantSpec and the names it leaves alone.

    Args:
        spec: Bits and scales.
        excluded: Module names, prefixes, or `re:` patterns that stay in the model's dtype.
        included: When not empty, only names that hold one of these are quantized.
    """

    spec: QuantSpec
    excluded: tuple[str, ...] = ()
    included: tuple[str, ...] = ()

    def reaches(self, name: str) -> bool:
        """Whether the module `name`, such as `model.layers.3.mlp.experts.down_proj`, is quantized."""
        if self.included and not any(part in name for part in self.included):
            return False
        return not any(_names(pattern, name) for pattern in self.excluded)


def _names(pattern: str, name: str) -> bool:
    """Whether an ignore entry names the module: a `re:` pattern, a dotted part of the name, or a `*` glob."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], name) is not None
    expression = re.escape(pattern).replace(r"\*", ".*")
    return re.search(rf"(^|\.){expression}(\.|$)", name) is not None


def _plain(method: str, bits: int, group: int, scale_bits: int) -> QuantSpec:
    return QuantSpec(method, bits, group, scale_bits)


def _compressed_tensors(reader: ConfigReader) -> tuple[QuantSpec, tuple[str, ...]]:
    groups = reader.section("config_groups")
    if groups is None:
        reader.refuse("config_groups", "is missing")
    names = list(groups._fields)
    specs = set()
    for name in names:
        group = groups.section(name)
        if group is None:
            groups.refuse(name, "is not an object")
        group.ignore("input_activations", "output_activations", "format")
        targets = group.texts("targets", ["Linear"])
        if targets != ["Linear"]:
            group.refuse("targets", f"is {targets}; farspan models one group for all Linear layers")
        weights = group.section("weights")
        if weights is None:
            group.refuse("weights", "is missing")
        bits = weights.integer("num_bits")
        strategy = weights.text("strategy", "tensor")
        size = {"group": "group_size", "tensor_group": "group_size"}.get(strategy)
        block = weights.integers("block_structure", [])
        if strategy == "block" and not block:
            weights.refuse("block_structure", "is missing for the block strategy")
        length = weights.integer(size) if size else (block[0] * block[1] if strategy == "block" else 0)
        if strategy not in ("group", "tensor_group", "tensor", "channel", "block"):
            weights.refuse(
                "strategy", f"is {strategy!r}; known are group, tensor_group, tensor, channel, block"
            )
        weights.ignore("actorder", "block_structure", "dynamic", "group_size", "observer", "observer_kwargs")
        weights.ignore("symmetric", "type", "scale_dtype", "zp_dtype")
        weights.finish()
        group.finish()
        specs.add(_plain("compressed-tensors", bits, length, 8 if bits == 4 and length == 16 else 16))
    groups.finish()
    if len(specs) != 1:
        reader.refuse("config_groups", "quantizes different layers differently, which farspan does not model")
    reader.ignore("format")
    return specs.pop(), tuple(reader.texts("ignore", []))


def read_quantization(reader: ConfigReader) -> Quantization | None:
    """Read `quantization_config`, if the config has one.

    Bytes: `fp8` with `weight_block_size` [a, b] keeps one float32 scale per a x b weights (transformers
    5.23 integrations/finegrained_fp8.py: FP8Linear); `mxfp4` keeps one byte per 32 weights (OCP MX);
    AWQ and GPTQ keep one 16-bit scale and one zero point of the weights' width per group.

    Raises:
        InputError: The method or one of its fields is not modelled; it is named.
    """
    section = reader.section("quantization_config")
    if section is None:
        return None
    method = section.text("quant_method")
    section.ignore(*_NOT_STORED)
    excluded: Iterable[str] = ()
    included: tuple[str, ...] = ()
    if method == "fp8":
        section.expect("fmt", "e4m3", "e5m2", "float8_e4m3fn")
        block = section.integers("weight_block_size", [])
        excluded = section.texts("modules_to_not_convert", []) + section.texts("ignored_layers", [])
        spec = _plain("fp8", 8, block[0] * block[1] if block else 0, 32)
    elif method == "fbgemm_fp8":
        excluded = section.texts("modules_to_not_convert", [])
        spec = _plain("fbgemm_fp8", 8, 0, 32)
    elif method == "mxfp4":
        excluded = section.texts("modules_to_not_convert", [])
        included = (".experts",)
        spec = _plain("mxfp4", 4, 32, 8)
    elif method in ("awq", "gptq"):
        bits = section.integer("bits")
        group = section.integer("group_size")
        excluded = section.texts("modules_to_not_convert", [])
        section.expect("lm_head", False)
        section.ignore("checkpoint_format", "meta", "quant_method")
        spec = _plain(method, bits, group, 16 + bits)
    elif method == "compressed-tensors":
        spec, excluded = _compressed_tensors(section)
    else:
        section.refuse(
            "quant_method",
            f"is {method!r}",
            "farspan knows fp8, fbgemm_fp8, mxfp4, awq, gptq, compressed-tensors",
        )
    section.finish()
    return Quantization(spec, tuple(excluded), included)
