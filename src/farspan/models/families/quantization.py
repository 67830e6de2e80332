"""Reading `quantization_config`: how many bits each weight takes, and what the KV cache is kept in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from farspan.models.families.config_fields import ConfigReader
from farspan.models.families.module_names import ModuleNames
from farspan.models.tensors import QuantSpec

# Bits a weight, weights a scale, bits of a scale. ModelOpt's names (vllm 0.33.0 layers/quantization/modelopt.py).
_ALGORITHMS = {
    "FP8": (8, 0, 32),
    "FP8_PER_CHANNEL_PER_TOKEN": (8, 0, 32),
    "FP8_PB_WO": (8, 128 * 128, 32),
    "MXFP8": (8, 32, 8),
    "NVFP4": (4, 16, 8),
    "NVFP4_AWQ": (4, 16, 8),
    "W4A16_NVFP4": (4, 16, 8),
    "W4A8_NVFP4_FP8": (4, 16, 8),
    "MXFP4": (4, 32, 8),
    "W4A8_MXFP4_FP8": (4, 32, 8),
    "W4A16_AWQ": (4, 128, 16),
    "W4A8_AWQ": (4, 128, 16),
    "INT8_SQ": (8, 0, 32),
    "W8A8_SQ_PER_CHANNEL": (8, 0, 32),
}
# torchao's config classes by how their names begin.
_TORCHAO = (
    ("Float8", 8, 0, 32),
    ("Int8", 8, 0, 32),
    ("Int4", 4, 128, 32),
    ("UIntX", 4, 128, 32),
    ("NVFP4", 4, 16, 8),
    ("MXFP8", 8, 32, 8),
    ("MXFP4", 4, 32, 8),
)
MXFP4 = QuantSpec("mxfp4", 4, 32, 8)
KNOWN_METHODS = (
    "fp8",
    "fbgemm_fp8",
    "mxfp4",
    "mxfp8",
    "awq",
    "gptq",
    "auto-round",
    "compressed-tensors",
    "modelopt",
    "quark",
    "torchao",
    "bitsandbytes",
    "w8a8_int8",
    "w8a8_fp8",
    "blockwise_int8",
    "w4afp8",
    "moe_wna16",
    "experts_int8",
)

# Fields that list the modules a quantization leaves alone.
SKIPPED_MODULES = (
    "modules_to_not_convert",
    "ignored_layers",
    "ignore",
    "exclude_modules",
    "exclude",
    "llm_int8_skip_modules",
)


@dataclass
class Quantization:
    """Which weights are kept in fewer bits.

    Args:
        rules: Formats with the modules each reaches; the first that names a module counts.
        excluded: Modules that stay in the model's dtype.
        kv_fp8: Whether the checkpoint asks for an FP8 KV cache.
    """

    rules: list[tuple[ModuleNames, QuantSpec]]
    excluded: ModuleNames = field(default_factory=ModuleNames)
    kv_fp8: bool = False

    @property
    def spec(self) -> QuantSpec | None:
        """The format to name the whole by: that of the most rules' first; None when only the KV is quantized."""
        return self.rules[0][1] if self.rules else None

    def spec_of(self, name: str, experts: bool = False) -> QuantSpec | None:
        """The format of a module such as `model.layers.3.mlp.experts.down_proj`, or None."""
        head = name.endswith("lm_head")
        if self.excluded.match(name):
            return None
        for names, spec in self.rules:
            if names.everything:
                if not head:
                    return spec
            elif (names.experts_only and experts) or names.match(name):
                return spec
        return None


def read_quantization(section: ConfigReader) -> Quantization:
    """Read a config's `quantization_config`.

    Bytes: `fp8` with `weight_block_size` [a, b] keeps one float32 scale per a x b weights (transformers
    5.23 integrations/finegrained_fp8.py: FP8Linear); MXFP4 one byte per 32 weights (OCP MX), NVFP4 one per 16;
    AWQ and GPTQ keep one 16-bit scale and one zero point of the weights' width per group.

    Raises:
        UnsupportedError: The method is not modelled; it is named.
    """
    method = section.text("quant_method", "").lower().replace("_", "-")
    if not method and ("quant_algo" in section or "quantization" in section):
        method = "modelopt"
    if not method and "config_groups" in section:
        method = "compressed-tensors"
    read = _READERS.get(method)
    if read is None:
        shown = section.text("quant_method", "")
        section.refuse("quant_method", f"is {shown!r}", f"farspan knows {', '.join(KNOWN_METHODS)}")
    found = read(section)
    return replace(found, kv_fp8=found.kv_fp8 or _keeps_kv_in_fp8(section))


def _keeps_kv_in_fp8(section: ConfigReader) -> bool:
    """Whether `kv_cache_scheme` or `kv_cache_quant_algo` asks for an FP8 cache."""
    scheme = section.fields.get("kv_cache_scheme")
    if isinstance(scheme, Mapping) and scheme.get("num_bits") == 8:
        return bool(scheme.get("type", "float") == "float")
    algorithm = section.fields.get("kv_cache_quant_algo")
    return isinstance(algorithm, str) and algorithm.upper() == "FP8"


def _skipped(section: ConfigReader) -> ModuleNames:
    """Every module the section leaves alone, whatever it calls the list."""
    names: list[str] = []
    for name in SKIPPED_MODULES:
        names += section.texts(name, [])
    return ModuleNames(names)


def _whole(spec: QuantSpec, section: ConfigReader) -> Quantization:
    return Quantization([(ModuleNames.all(), spec)], _skipped(section))


def _fp8(section: ConfigReader) -> Quantization:
    section.expect("fmt", "e4m3", "e5m2", "float8_e4m3fn")
    block = section.integers("weight_block_size", [])
    if not block and "moe_quant_algo" in section:
        block = [128, 128]
    base = QuantSpec("fp8", 8, block[0] * block[1] if block else 0, 32)
    if "moe_quant_algo" not in section:
        return _whole(base, section)
    # The routed experts in another format, everything else as the checkpoint it was made from.
    experts = _algorithm(section, section.text("moe_quant_algo"))
    return Quantization([(ModuleNames.experts(), experts), (ModuleNames.all(), base)])


def _mxfp4(section: ConfigReader) -> Quantization:
    return Quantization([(ModuleNames.experts(), MXFP4)], _skipped(section))


def _blockwise_int8(section: ConfigReader) -> Quantization:
    block = section.integers("weight_block_size", [128, 128])
    return _whole(QuantSpec("blockwise_int8", 8, block[0] * block[1], 32), section)


def _w4afp8(section: ConfigReader) -> Quantization:
    """SGLang's mixture: routed experts in 4-bit integers, everything else in FP8 by blocks."""
    experts = QuantSpec("w4afp8", 4, section.integer("group_size", 128), 16)
    block = section.integers("weight_block_size", [128, 128])
    rest = QuantSpec("fp8", 8, block[0] * block[1], 32)
    return Quantization([(ModuleNames.experts(), experts), (ModuleNames.all(), rest)], _skipped(section))


def _grouped(section: ConfigReader) -> Quantization:
    """AWQ, GPTQ and auto-round: integers of `bits` bits in groups of `group_size`."""
    method = section.text("quant_method")
    bits = section.integer("bits")
    size = section.fields.get("group_size", 128)
    group = size if isinstance(size, int) and size > 0 else 0
    kind = section.text("data_type", "int")
    if kind.startswith(("mx", "nv")):
        return _whole(QuantSpec(method, bits, group or 32, 8), section)
    spec = QuantSpec(method, bits, group, 16 + bits)
    own = section.fields.get("extra_config")
    kept = [
        name
        for name, options in (own if isinstance(own, Mapping) else {}).items()
        if isinstance(options, Mapping) and options.get("bits") == 16
    ]
    found = _whole(spec, section)
    found.excluded.extend(kept)
    return found


def _bitsandbytes(section: ConfigReader) -> Quantization:
    if section.flag("load_in_8bit", False) or section.flag("_load_in_8bit", False):
        return _whole(QuantSpec("bitsandbytes", 8, 0, 32), section)
    # 4 bits and a scale per 64 weights: float32, or 8 bits where the scales are quantized again.
    double = section.flag("bnb_4bit_use_double_quant", False)
    return _whole(QuantSpec("bitsandbytes", 4, 64, 8 if double else 32), section)


def _compressed_tensors(section: ConfigReader) -> Quantization:
    outer_format = section.text("format", "")
    rules = [
        (ModuleNames(targets) if targets else ModuleNames.all(), spec)
        for targets, spec in _groups(section, "compressed-tensors", outer_format)
    ]
    if not rules:
        section.refuse("config_groups", "is missing")
    return Quantization(sorted(rules, key=lambda rule: rule[0].everything), _skipped(section))


def _groups(section: ConfigReader, method: str, outer_format: str) -> Iterator[tuple[list[str], QuantSpec]]:
    """The targets and the format of each entry of `config_groups`; no targets means every Linear."""
    groups = section.section("config_groups")
    if groups is None:
        return
    for name in groups.fields:
        group = groups.section(name)
        if group is None:
            continue
        weights = group.section("weights")
        if weights is None:
            continue
        targets = [target for target in group.texts("targets", ["Linear"]) if target != "Linear"]
        bits = weights.integer("num_bits")
        strategy = weights.text("strategy", "")
        size = weights.integer("group_size", 0)
        block = weights.integers("block_structure", [])
        if strategy not in ("", "group", "tensor_group", "tensor", "channel", "block"):
            weights.refuse(
                "strategy", f"is {strategy!r}; known are group, tensor_group, tensor, channel, block"
            )
        if strategy == "block":
            if len(block) != 2:
                weights.refuse("block_structure", "is missing for the block strategy")
            size = block[0] * block[1]
        own_format = group.text("format", outer_format)
        small = own_format.startswith(("mxfp", "nvfp")) or (
            weights.text("type", "int") == "float" and size in (16, 32)
        )
        zero = bits if weights.fields.get("symmetric") is False else 0
        scale = 8 if small else (32 if strategy == "block" else 16 + zero)
        yield targets, QuantSpec(method, bits, size, scale)


def _algorithm(section: ConfigReader, name: str) -> QuantSpec:
    known = _ALGORITHMS.get(name.upper())
    if known is None:
        section.refuse("quant_algo", f"is {name!r}", f"farspan knows {', '.join(_ALGORITHMS)}")
    bits, group, scale = known
    return QuantSpec(
        "modelopt", bits, section.integer("group_size", group) if group in (16, 128) else group, scale
    )


def _modelopt(section: ConfigReader) -> Quantization:
    """ModelOpt's own layout, in config.json or as `quantization` in hf_quant_config.json."""
    inner = section.section("quantization") or section
    skipped = _skipped(inner)
    kv_fp8 = _keeps_kv_in_fp8(inner)
    layers = inner.fields.get("quantized_layers")
    if isinstance(layers, Mapping):
        by_algorithm: dict[QuantSpec, list[str]] = {}
        for name, options in layers.items():
            algorithm = str(options.get("quant_algo")) if isinstance(options, Mapping) else str(options)
            by_algorithm.setdefault(_algorithm(inner, algorithm), []).append(str(name))
        return Quantization(
            [(ModuleNames(names), spec) for spec, names in by_algorithm.items()], skipped, kv_fp8
        )
    if "config_groups" in inner and "quant_algo" not in inner:
        rules = [
            (ModuleNames(targets) if targets else ModuleNames.all(), spec)
            for targets, spec in _groups(inner, "modelopt", "")
        ]
        return Quantization(rules, skipped, kv_fp8)
    if inner.fields.get("quant_algo") is None:
        return Quantization([], skipped, kv_fp8)
    return Quantization([(ModuleNames.all(), _algorithm(inner, inner.text("quant_algo")))], skipped, kv_fp8)


_QUARK = (
    ("fp4", 4),
    ("mxfp4", 4),
    ("fp8", 8),
    ("int8", 8),
    ("uint4", 4),
    ("int4", 4),
    ("mxfp6", 6),
    ("fp6", 6),
)


def _quark_spec(section: ConfigReader, weight: object) -> QuantSpec | None:
    options = weight[0] if isinstance(weight, list) and weight else weight
    if not isinstance(options, Mapping):
        return None
    kind, group = str(options.get("dtype", "")), options.get("group_size")
    size = group if isinstance(group, int) and group > 0 else 0
    bits = next((bits for start, bits in _QUARK if kind.startswith(start)), 0)
    if not bits:
        section.refuse(
            "global_quant_config", f"keeps weights in {kind!r}", "farspan knows fp4, fp6, fp8, int4 and int8"
        )
    return QuantSpec("quark", bits, size, 8 if "fp4" in kind or "fp6" in kind else 16)


def _quark(section: ConfigReader) -> Quantization:
    rules: list[tuple[ModuleNames, QuantSpec]] = []
    kept: list[str] = []
    own = section.fields.get("layer_quant_config")
    for name, options in (own if isinstance(own, Mapping) else {}).items():
        spec = _quark_spec(section, options.get("weight") if isinstance(options, Mapping) else None)
        if spec is None:
            kept.append(str(name))
        else:
            rules.append((ModuleNames([str(name)]), spec))
    whole = section.fields.get("global_quant_config")
    spec = _quark_spec(section, whole.get("weight") if isinstance(whole, Mapping) else None)
    if spec is not None:
        rules.append((ModuleNames.all(), spec))
    excluded = _skipped(section)
    excluded.extend(kept)
    export = section.fields.get("export")
    cached = export.get("kv_cache_group") if isinstance(export, Mapping) else None
    return Quantization(rules, excluded, kv_fp8=bool(cached))


def _torchao(section: ConfigReader) -> Quantization:
    kind = section.fields.get("quant_type")
    chosen = kind.get("default") if isinstance(kind, Mapping) else kind
    name = str(chosen.get("_type")) if isinstance(chosen, Mapping) else str(chosen).replace("_", "")
    data = chosen.get("_data") if isinstance(chosen, Mapping) else section.fields.get("quant_type_kwargs")
    given = data.get("group_size") if isinstance(data, Mapping) else None
    known = next((sizes for start, *sizes in _TORCHAO if name.lower().startswith(start.lower())), None)
    if known is None:
        section.refuse(
            "quant_type", f"is {name!r}", "farspan knows torchao's Float8, Int8, Int4, NVFP4 and MX configs"
        )
    bits, group, scale = known
    return _whole(QuantSpec("torchao", bits, given if isinstance(given, int) else group, scale), section)


_READERS = {
    "fp8": _fp8,
    "deepseek-v4-fp8": _fp8,
    "fbgemm-fp8": lambda section: _whole(QuantSpec("fbgemm_fp8", 8, 0, 32), section),
    "ptpc-fp8": lambda section: _whole(QuantSpec("ptpc_fp8", 8, 0, 32), section),
    "mxfp4": _mxfp4,
    "gpt-oss-mxfp4": _mxfp4,
    "mxfp8": lambda section: _whole(QuantSpec("mxfp8", 8, 32, 8), section),
    "awq": _grouped,
    "gptq": _grouped,
    "awq-marlin": _grouped,
    "gptq-marlin": _grouped,
    "auto-round": _grouped,
    "inc": _grouped,
    "marlin": _grouped,
    "moe-wna16": _grouped,
    "w8a8-int8": lambda section: _whole(QuantSpec("w8a8_int8", 8, 0, 32), section),
    "w8a8-fp8": lambda section: _whole(QuantSpec("w8a8_fp8", 8, 0, 32), section),
    "blockwise-int8": _blockwise_int8,
    "w4afp8": _w4afp8,
    "experts-int8": lambda section: Quantization(
        [(ModuleNames.experts(), QuantSpec("experts_int8", 8, 0, 32))], _skipped(section)
    ),
    "intel/auto-round": _grouped,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "modelopt-fp4": _modelopt,
    "modelopt-mixed": _modelopt,
    "modelopt-mxfp8": _modelopt,
    "quark": _quark,
    "torchao": _torchao,
}
