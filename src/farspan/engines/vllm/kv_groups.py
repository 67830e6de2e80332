"""How vLLM splits the layers of a model into KV groups that share one pool of blocks.

A group is a set of layers with one block table. A block of the pool holds one page of every layer of a group.
Mirrors vllm v1/core/kv_cache_utils.py (0.33.0: kv_cache_planning.py): get_kv_cache_groups and what it calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from farspan.engines.vllm.kv_spec import FULL_KINDS, KvSpec, SpecKind, ceil_div
from farspan.engines.vllm.versions import PageUnify, VllmRules
from farspan.errors import FarspanError

LayerSpecs = Mapping[str, KvSpec]


class GroupingError(FarspanError):
    """vLLM cannot put these layers into KV groups and does not start."""


class _CannotMergeError(Exception):
    """Specs differ where vLLM asserts that they agree."""


@dataclass(frozen=True, slots=True)
class KvGroup:
    """Layers with one block table.

    Args:
        layers: Their names.
        spec: What they have in common; the first layer's spec when `per_layer` is given.
        per_layer: One spec a layer, when layers of one type differ in size; else empty.
    """

    layers: tuple[str, ...]
    spec: KvSpec
    per_layer: tuple[KvSpec, ...] = ()
    bytes_per_block: int = field(init=False)
    distinct: tuple[KvSpec, ...] = field(init=False)

    def __post_init__(self) -> None:
        specs = self.per_layer or (self.spec,)
        pages = sum(spec.page_bytes for spec in specs)
        object.__setattr__(self, "bytes_per_block", pages if self.per_layer else pages * len(self.layers))
        object.__setattr__(self, "distinct", tuple(dict.fromkeys(specs)))

    @property
    def page_bytes(self) -> int:
        """Bytes vLLM calls the group's page: one layer's page, or all of them when layers differ."""
        return self.bytes_per_block if self.per_layer else self.spec.page_bytes

    def blocks(self, tokens: int, in_flight: int) -> int:
        """Blocks of the pool one request of `tokens` tokens holds for this group."""
        if len(self.distinct) == 1:
            return self.distinct[0].blocks(tokens, in_flight)
        return max(spec.blocks(tokens, in_flight) for spec in self.distinct)


def make_groups(layers: LayerSpecs, rules: VllmRules, *, hybrid: bool) -> tuple[KvGroup, ...]:
    """Split layers into KV groups.

    Args:
        layers: Layer name to spec, in the model's order.
        rules: The version's rules.
        hybrid: Whether the hybrid KV cache manager is on; off, windowed layers keep every token.

    Raises:
        GroupingError: vLLM refuses these layers.
    """
    specs = dict(layers) if hybrid else _as_full(layers, rules)
    ordered = list(specs.values())
    if _is_uniform(ordered, rules):
        return (KvGroup(tuple(specs), _merge(ordered, rules)),)
    if _is_one_type(ordered, rules):
        return (KvGroup(tuple(specs), ordered[0], tuple(ordered)),)
    try:
        unified = _unify_pages(specs, rules)
    except GroupingError:
        if rules.latent_falls_back and (promoted := _all_as_full(specs, rules)):
            return (KvGroup(tuple(promoted), next(iter(promoted.values())), tuple(promoted.values())),)
        raise
    return _groups_of_equal_pages(unified, rules)


def _all_as_full(specs: LayerSpecs, rules: VllmRules) -> dict[str, KvSpec] | None:
    """Sliding-window layers beside MLA ones as full layers, when their pages cannot be made alike.

    vllm: _try_get_full_allocation_fallback_groups.
    """
    kinds = {spec.kind for spec in specs.values()}
    if SpecKind.CHUNKED_LOCAL in kinds or not kinds >= {SpecKind.MLA, SpecKind.SLIDING_WINDOW}:
        return None
    try:
        promoted = _as_full(specs, rules)
    except GroupingError:
        return None
    return promoted if _is_one_type(list(promoted.values()), rules) else None


def _merge(specs: Sequence[KvSpec], rules: VllmRules) -> KvSpec:
    """One spec for all, or _CannotMergeError (KVCacheSpec.merge and its overrides)."""
    first = specs[0]
    if first.kind not in FULL_KINDS:
        if any(spec != first for spec in specs):
            raise _CannotMergeError
        return first
    if any(spec.kind is not first.kind for spec in specs):
        raise _CannotMergeError
    if first.kind is SpecKind.MLA:
        if any(spec.cache_dtype != first.cache_dtype for spec in specs):
            raise _CannotMergeError
        if rules.separates_latent_size and any(_sizes(spec) != _sizes(first) for spec in specs):
            raise _CannotMergeError
        return first
    windows = {spec.full_window for spec in specs if spec.full_window is not None}
    chunks = {spec.full_chunk for spec in specs if spec.full_chunk is not None}
    if len(windows) > 1 or len(chunks) > 1:
        raise GroupingError(
            f"vLLM refuses layers with windows of {sorted(windows | chunks)} tokens in one KV group",
            "leave hybrid KV groups on",
        )
    if any(_sizes(spec) != _sizes(first) for spec in specs) or (windows and chunks):
        raise _CannotMergeError
    if rules.separates_value_size and any(spec.head_size_v != first.head_size_v for spec in specs):
        raise _CannotMergeError
    return first._replace(full_window=next(iter(windows), None), full_chunk=next(iter(chunks), None))


def _sizes(spec: KvSpec) -> tuple[int | None, ...]:
    """What every AttentionSpec of a group must agree in."""
    return (
        spec.block_size,
        spec.num_kv_heads,
        spec.head_size,
        spec.value_bytes,
        spec.page_padded,
        spec.entry_bytes,
    )


def _is_uniform(specs: Sequence[KvSpec], rules: VllmRules) -> bool:
    """vllm: is_kv_cache_spec_uniform."""
    try:
        _merge(specs, rules)
    except _CannotMergeError:
        return False
    return True


def _is_one_type(specs: Sequence[KvSpec], rules: VllmRules) -> bool:
    """Whether all layers need as many token slots (vllm: UniformTypeKVCacheSpecs.is_uniform_type)."""
    first = specs[0]
    if any(spec.block_size != first.block_size for spec in specs):
        return False
    if first.kind in FULL_KINDS:
        return all(spec.kind in FULL_KINDS for spec in specs)
    if any(spec.kind is not first.kind for spec in specs):
        return False
    if first.kind is SpecKind.STATE:
        unlike_pages = rules.state_page_uniform and len({spec.page_bytes for spec in specs}) > 1
        return not unlike_pages and all(spec.state_blocks == first.state_blocks for spec in specs)
    return all(spec.window == first.window for spec in specs)


def _as_full(layers: LayerSpecs, rules: VllmRules) -> dict[str, KvSpec]:
    """Windowed layers as full ones, for the hybrid manager turned off (vllm: unify_hybrid_kv_cache_specs)."""
    specs = dict(layers)
    ordered = list(specs.values())
    if _is_uniform(ordered, rules) or _is_one_type(ordered, rules):
        return specs
    full_blocks = {spec.block_size for spec in ordered if spec.kind in FULL_KINDS}
    if full_blocks:
        block = full_blocks.pop() if rules.promotes and len(full_blocks) == 1 else None
        specs = {name: _promoted(spec, block, rules) for name, spec in specs.items()}
        ordered = list(specs.values())
    if not (_is_uniform(ordered, rules) or _is_one_type(ordered, rules)):
        raise GroupingError(
            "vLLM cannot treat the layers of this model alike: it does not start with hybrid KV groups off",
            "leave hybrid KV groups on",
        )
    return specs


def _promoted(spec: KvSpec, block: int | None, rules: VllmRules) -> KvSpec:
    """The same layer keeping every token; other kinds unchanged (vllm: _promote_local_kv_cache_specs)."""
    if spec.kind is SpecKind.SLIDING_WINDOW:
        full = spec._replace(kind=SpecKind.FULL, window=None, full_window=spec.window)
    elif spec.kind is SpecKind.CHUNKED_LOCAL:
        full = spec._replace(kind=SpecKind.FULL, window=None, full_chunk=spec.window)
    else:
        return spec
    block = block or spec.block_size
    if not rules.promotes or spec.page_padded is None:
        return full._replace(block_size=block)
    return full._replace(block_size=block, page_padded=max(spec.page_padded, block * spec.token_bytes))


def _unify_pages(specs: LayerSpecs, rules: VllmRules) -> dict[str, KvSpec]:
    """Pages of one size for all layers (vllm: unify_kv_cache_spec_page_size)."""
    largest = max(spec.page_bytes for spec in specs.values())
    return {
        name: spec if spec.page_bytes == largest else _with_page(name, spec, largest, rules)
        for name, spec in specs.items()
    }


def _with_page(name: str, spec: KvSpec, page: int, rules: VllmRules) -> KvSpec:
    if spec.kind is SpecKind.STATE and rules.pads_state_pages:
        return spec._replace(page_padded=page)
    if page % spec.page_bytes == 0:
        larger = spec._replace(block_size=spec.block_size * (page // spec.page_bytes))
        if larger.page_bytes == page:
            return larger
    elif rules.page_unify is PageUnify.PAD and spec.kind not in (SpecKind.MLA, SpecKind.STATE):
        return spec._replace(page_padded=page)
    raise GroupingError(
        f"vLLM {rules.version} cannot give layer {name} a page of {page} bytes: its own is {spec.page_bytes}",
        "use a newer vLLM, or another --block-size or --kv-cache-dtype",
    )


def _groups_of_equal_pages(specs: LayerSpecs, rules: VllmRules) -> tuple[KvGroup, ...]:
    """Buckets of like layers, cut into groups of one size (_get_kv_cache_groups_uniform_page_size)."""
    same: dict[KvSpec, list[str]] = {}
    for name, spec in specs.items():
        same.setdefault(spec, []).append(name)
    buckets = list(same.values())
    sizes = [len(names) for names in buckets]
    group_size = max(sizes) if max(sizes) < min(sizes) * rules.near_ratio else min(sizes)
    groups = []
    for names in buckets:
        count = ceil_div(len(names), group_size)
        for index in range(count):
            chosen = names[index::count]
            groups.append(KvGroup(tuple(chosen), _merge([specs[name] for name in chosen], rules)))
    return tuple(groups)
