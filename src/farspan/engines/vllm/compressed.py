"""DeepSeek V4's caches: latents at several rates, their windows and running states, packed into one pool of blocks.

A layer has up to five caches, each with a block and a page of its own (vllm 0.33.0 models/deepseek_v4/attention.py,
compressor.py, v1/attention/backends/mla/sparse_swa.py: get_kv_cache_spec). A block of the pool holds one page of every
cache of one group, and belongs to one group at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from farspan.engines.vllm.kv_groups import GroupingError, KvGroup, LayerSpecs
from farspan.engines.vllm.kv_spec import KvSpec, SpecKind, ceil_div
from farspan.engines.vllm.pool import VllmKvLayout
from farspan.engines.vllm.versions import CompressedPool, VllmRules
from farspan.errors import InputError
from farspan.models.spec import KvDtype, LayerSpec, ModelSpec, StateTensor

BLOCK = 256  # tokens; the one size of DeepseekV4SparseMLABackend.get_supported_kernel_block_sizes
_ENTRY_BYTES = 584  # 448 FP8 values, 64 bf16 RoPE values, 8 bytes of scales (v1/kv_cache_interface.py)
_PAGE_ALIGNMENT = 576
_WINDOW_BLOCK = 64  # DeepseekV4SWACache
_STATE_BLOCKS = {4: 4, 128: 8}  # tokens, by the rate (CompressorStateCache)


def check_compressed(
    model: ModelSpec,
    rules: VllmRules,
    kv_dtype: KvDtype,
    block_size: int | None,
    *,
    alone: bool,
    hybrid: bool,
) -> None:
    """Refuse what the engine refuses for such a model, and what is not mirrored.

    Args:
        model: The model.
        rules: The version's rules.
        kv_dtype: The KV type as it was asked for.
        block_size: `--block-size`, or None.
        alone: Whether it runs without pipeline stages and without a draft.
        hybrid: Whether hybrid groups were left on.

    Raises:
        InputError: One of them was asked for; it is named.
    """
    if not (kv_dtype.is_fp8 or (kv_dtype is KvDtype.AUTO and rules.latent_auto_fp8)):
        raise InputError(
            f"vllm {rules.version} keeps the latents of {model.name} in FP8 alone, and --kv-dtype is {kv_dtype.value}",
            "add --kv-dtype fp8",
        )
    if block_size not in (None, BLOCK):
        raise InputError(
            f"--block-size {block_size} does not fit {model.name}, whose kernels want {BLOCK}", "drop it"
        )
    if not alone or not hybrid:
        raise InputError(
            f"{model.name} with pipeline stages, a draft or hybrid KV groups off is not mirrored for vLLM",
            "plan without them",
        )


def layer_specs(model: ModelSpec) -> dict[str, KvSpec]:
    """Every cache of the model, by name."""
    return {name: spec for layer in model.layers for name, spec in _caches(layer)}


def _caches(layer: LayerSpec) -> Iterator[tuple[str, KvSpec]]:
    name, rate = f"layers.{layer.index}.attn", layer.tokens_per_entry
    window = layer.window or 0
    yield f"{name}.window", _window(_WINDOW_BLOCK, window, _ENTRY_BYTES)
    if not rate:
        return
    yield name, _latent(rate, _ENTRY_BYTES)
    states = list(layer.states)
    yield f"{name}.compressor", _state(rate, states[0])
    if layer.indexer is not None:
        yield f"{name}.indexer", _latent(rate, layer.indexer.entry_bytes)
        yield f"{name}.indexer.compressor", _state(rate, states[1])


def _latent(rate: int, entry: int) -> KvSpec:
    page = _aligned(BLOCK // rate * entry)
    return KvSpec(SpecKind.MLA, BLOCK, 1, entry_bytes=entry, page_padded=page, cache_dtype="fp8_ds_mla")


def _window(block: int, window: int, entry: int) -> KvSpec:
    page = _aligned(block * entry)
    return KvSpec(SpecKind.SLIDING_WINDOW, block, 1, window=window, entry_bytes=entry, page_padded=page)


def _state(rate: int, state: StateTensor) -> KvSpec:
    """The running state of a compressor, kept as a window of as many tokens as it folds at once."""
    folded, values = state.shape
    return _window(_STATE_BLOCKS[rate], folded, values * state.dtype_bytes)


def _aligned(size: int) -> int:
    return ceil_div(size, _PAGE_ALIGNMENT) * _PAGE_ALIGNMENT


@dataclass(frozen=True, slots=True)
class CompressedLayout(VllmKvLayout):
    """The pool of such a model; how its blocks are counted depends on the version.

    Args:
        tuples: Layers of one page size that every group is believed to have.
        tuple_bytes: One page of each size of the latents.
    """

    tuples: int = 0
    tuple_bytes: int = 0

    def __post_init__(self) -> None:
        VllmKvLayout.__post_init__(self)
        if self.rules.compressed_pool is CompressedPool.SLOTS:
            # _get_kv_cache_config_packed: pages of one size share a slot, however unlike the groups are.
            object.__setattr__(self, "bytes_per_block", _slot_bytes(self.groups))

    def concurrency(self, num_blocks: int, tokens: int, in_flight: int) -> float:
        """Requests of `tokens` tokens at once, as printed: with slots, pages over those of the latents' group."""
        if self.rules.compressed_pool is not CompressedPool.SLOTS:
            return VllmKvLayout.concurrency(self, num_blocks, tokens, in_flight)
        needed = sum(group.blocks(tokens, in_flight) * group.bytes_per_block for group in self.groups)
        return num_blocks / ceil_div(needed, self.groups[0].bytes_per_block)

    def needed_bytes(self, tokens: int, in_flight: int) -> int:
        """Bytes the engine believes one request takes: slots of every group, or whole blocks."""
        if self.rules.compressed_pool is CompressedPool.BLOCKS:
            return VllmKvLayout.needed_bytes(self, tokens, in_flight)
        return self.tuples * self.tuple_bytes * self.request_blocks(tokens, in_flight)


def _slot_bytes(groups: Sequence[KvGroup]) -> int:
    slots: dict[int, int] = {}
    for group in groups:
        for page, count in _pages(group.per_layer).items():
            slots[page] = max(slots.get(page, 0), count)
    return sum(page * count for page, count in slots.items())


def _pages(specs: Sequence[KvSpec]) -> dict[int, int]:
    """Caches of each page size."""
    pages: dict[int, int] = {}
    for spec in specs:
        pages[spec.page_bytes] = pages.get(spec.page_bytes, 0) + 1
    return pages


def compressed_layout(model: ModelSpec, rules: VllmRules) -> CompressedLayout:
    """Group the caches of a model with latents of folded tokens.

    vllm 0.28.0 v1/core/kv_cache_utils.py: group_and_unify_kv_cache_specs, _get_kv_cache_groups_uniform_groups; 0.33.0
    kv_cache_planning.py: _get_packed_kv_cache_groups.

    Raises:
        GroupingError: The model has none whose groups are mirrored.
    """
    layers = layer_specs(model)
    latents = {name: spec for name, spec in layers.items() if spec.kind is SpecKind.MLA}
    windows: dict[tuple[int, int | None], dict[str, KvSpec]] = {}
    for name, spec in layers.items():
        if spec.kind is not SpecKind.MLA:
            windows.setdefault((spec.block_size, spec.window), {})[name] = spec
    if not any(len(_pages(list(kinds.values()))) > 1 for kinds in windows.values()):
        raise GroupingError(
            f"{model.name} has no layer with an indexer, and farspan does not mirror its groups"
        )
    buckets = [latents, *windows.values()]
    repeats = _repeats(buckets, rules)
    sizes = sorted({spec.page_bytes for spec in latents.values()})
    groups = [_group(latents)] if rules.compressed_pool is not CompressedPool.BLOCKS else []
    for kinds in buckets[len(groups) :]:
        padded = _fit_pages(kinds, sizes) if rules.compressed_pool is CompressedPool.SLOTS else kinds
        groups += _split(padded, repeats)
    tuples = max(max(_pages(group.per_layer).values()) for group in groups)
    return CompressedLayout(layers, tuple(groups), rules, tuples=tuples, tuple_bytes=sum(sizes))


def _group(specs: LayerSpecs) -> KvGroup:
    return KvGroup(tuple(specs), next(iter(specs.values())), tuple(specs.values()))


def _repeats(buckets: Sequence[LayerSpecs], rules: VllmRules) -> int:
    """How many times a group repeats its pattern of page sizes: what pads the groups least."""
    pages = [_pages(list(specs.values())) for specs in buckets]
    if rules.compressed_pool is not CompressedPool.BLOCKS:
        counts = [max(kinds.values()) for kinds in pages]
        return _least_padding(counts, counts[0])
    balanced = [kinds for kinds in pages if len(set(kinds.values())) == 1]
    least = max(max(kinds.values()) for kinds in balanced if len(kinds) > 1)
    return _least_padding([max(kinds.values()) for kinds in balanced], least)


def _least_padding(counts: Sequence[int], least: int) -> int:
    """vllm: _approximate_gcd; of several the largest."""
    sizes = range(least, max(least, *counts) + 1)
    return min(sizes, key=lambda size: (sum(-count % size for count in counts), -size))


def _fit_pages(specs: LayerSpecs, sizes: Sequence[int]) -> Mapping[str, KvSpec]:
    """Pages padded to the next size that the latents have.

    Raises:
        GroupingError: One is larger than all of those.
    """
    fitted = {}
    for name, spec in specs.items():
        larger = [size for size in sizes if size >= spec.page_bytes]
        if not larger:
            raise GroupingError(f"vLLM has no page as large as {name}'s, {spec.page_bytes} bytes")
        fitted[name] = spec._replace(page_padded=larger[0])
    return fitted


def _split(specs: LayerSpecs, repeats: int) -> list[KvGroup]:
    """Cut caches into groups of as many repeats; those without a repeating pattern stay whole."""
    by_page: dict[int, list[str]] = {}
    for name, spec in specs.items():
        by_page.setdefault(spec.page_bytes, []).append(name)
    if len({len(names) for names in by_page.values()}) > 1:
        return [_group(specs)]
    patterns = list(zip(*by_page.values(), strict=True))
    count = ceil_div(len(patterns), repeats)
    return [
        _group({name: specs[name] for pattern in patterns[index::count] for name in pattern})
        for index in range(count)
    ]
