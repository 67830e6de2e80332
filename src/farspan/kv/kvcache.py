"""The elastic KV cache: memory that grows and shrinks on demand, under a tree of shared prefixes.

Everything the engine needs of a cache (`kv.interface.KVCache`), put together from pages in elastic memory
(`kv.pages`), a radix tree of prefixes (`kv.radix`), what each kind of layers must keep (`kv.retention`) and a host
tier (`kv.tiers`). One thread uses it.

Admission: a sequence is opened only when what it may need, and what those already open may still need, fits what is
mapped and free, what can be evicted and what the device can still give. Memory itself is taken as positions are
appended. When the device then has less than it had, because a neighbour took it, `append` raises NoRoomError and the
scheduler sends a request back to the queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from farspan.errors import InputError
from farspan.kv.admission import CacheAdmission
from farspan.kv.compaction import compact
from farspan.kv.formats import KVFormat, LayerStore
from farspan.kv.interface import KVCache, KVCacheError, KVStatistics, NoRoomError, RoomWait
from farspan.kv.kinds import LayerKind, group_layers
from farspan.kv.kv_options import KVOptions
from farspan.kv.memory.budget.pool_budget import POLL_S
from farspan.kv.memory.drivers.choose import open_driver
from farspan.kv.memory.drivers.driver import Driver
from farspan.kv.memory.page_guard import debug_wanted
from farspan.kv.memory.pages import PagePool
from farspan.kv.memory.segments import SegmentPool
from farspan.kv.prefix_evictor import PrefixEvictor
from farspan.kv.prefixes import Hit, PrefixStore, no_hit
from farspan.kv.retention import LayerRetention
from farspan.kv.sequence import ElasticSequenceKV
from farspan.kv.sizing import CacheSize, KindSize, choose_segment_bytes
from farspan.sizes import GIB, format_bytes

if TYPE_CHECKING:
    import torch


class ElasticKVCache(KVCache):
    """Room for the keys and values of many sequences, taken from the device as they grow.

    Args:
        layers: What each layer must keep.
        num_kv_heads: KV heads of every layer.
        head_dim: Channels of a head.
        dtype: Of keys and values as attention takes them.
        device: Where they live.
        max_step_tokens: The most positions appended between two calls of `SequenceKV.computed`.
        options: How the cache behaves.
        driver: Where memory comes from, closed by whoever made it; None for one of the cache's own, closed with it.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        *,
        layers: tuple[LayerRetention, ...],
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        max_step_tokens: int,
        options: KVOptions | None = None,
        driver: Driver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        options = options or KVOptions()
        self._options = options
        self._device = device
        self._clock = clock
        self._own_driver = driver is None
        self._driver = driver or open_driver(device)
        form, cap = KVFormat(num_kv_heads, head_dim, dtype, options.fp8), options.cap
        grouped = group_layers(layers)
        budget = self.budget = options.join_budget(self._driver)
        memory = self._driver.memory()
        largest = min(cap.limit(memory, 0), budget.most if budget else memory.total)
        self._size = CacheSize(
            kinds=tuple(KindSize(retention, len(numbers)) for retention, numbers in grouped),
            row_bytes=form.row_bytes,
            page_tokens=options.page_tokens,
            segment_bytes=choose_segment_bytes(
                largest,
                len(layers),
                self._driver.granularity,
                None if options.segment_mib is None else options.segment_mib * 1024**2,
            ),
            step_tokens=max_step_tokens,
        )
        self.segments = SegmentPool(
            self._driver, self._size.segment_bytes, cap, quiet_s=options.quiet_s, clock=clock, budget=budget
        )
        self._kinds: list[LayerKind] = []
        self._open: dict[int, ElasticSequenceKV] = {}
        self._admission = CacheAdmission(
            self._size, self.segments, self._driver, cap.fixed_bytes, self._open.values()
        )
        self._prefixes: PrefixStore | None = None
        self._closed = False
        try:
            self._admission.wait_for_start()
            for retention, numbers in grouped:
                self._kinds.append(self._new_kind(retention, numbers, form))
            # Without a layer that keeps everything there is nothing a tree of prefixes could hold on to.
            if options.prefix_caching and self._kinds[0].retention.full:
                host_bytes = int(options.host_gib * GIB)
                self._prefixes = PrefixStore(self._kinds, options.page_tokens, host_bytes, device)
                self.segments.register_evictor(PrefixEvictor(self._prefixes, self._kinds, self._size))
            self._admission.keep_in(self._kinds, self._prefixes)
            self._keep_initial(options)
            self._capacity_bytes()
        except BaseException:
            self._give_back()
            raise
        places = {
            number: (index, store)
            for index, kind in enumerate(self._kinds)
            for number, store in zip(kind.layers, kind.stores, strict=True)
        }
        self._layers: list[tuple[int, LayerStore]] = [places[number] for number in range(len(layers))]
        self._idle_since = clock()

    @property
    def page_tokens(self) -> int:
        """Positions a page."""
        return self._size.page_tokens

    def check_fits(self, max_length: int) -> int:
        """See `KVCache.check_fits`."""
        return self._admission.check(max_length)

    def check_wait(self, max_length: int, wait: RoomWait | None) -> RoomWait:
        """See `KVCache.check_wait`."""
        wait = wait or RoomWait()
        self._admission.check(max_length, wait)
        return wait

    def open(
        self, token_ids: NDArray[np.int32], max_length: int, namespace: bytes = b""
    ) -> ElasticSequenceKV | None:
        """See `KVCache.open`."""
        self._driver.check_open()
        if len(token_ids) > max_length:
            raise KVCacheError(f"a sequence of {len(token_ids)} tokens cannot be opened for {max_length}")
        self.check_fits(max_length)
        limits = self._size.pages(max_length)
        prefix = token_ids[:-1]
        sequence = self._open_behind(self._find(prefix, namespace), max_length, limits)
        if sequence is None and not self._open:
            # Nobody is there whose end could be waited for: what is on the host is left there.
            sequence = self._open_behind(self._find(prefix, namespace, host=False), max_length, limits)
        return sequence

    def _find(self, prefix: NDArray[np.int32], namespace: bytes, host: bool = True) -> Hit:
        if self._prefixes is None:
            return no_hit(len(self._kinds))
        return self._prefixes.find(prefix, namespace, host)

    def _open_behind(self, hit: Hit, max_length: int, limits: tuple[int, ...]) -> ElasticSequenceKV | None:
        """Open a sequence that continues a hit, which is released when there is no room for it.

        ====================  ==============  ===================  ======================
        who has               before          opened               None, or an error
        ====================  ==============  ===================  ======================
        the lock of its path  the hit         the sequence         nobody
        its pages             the tree        tree and sequence    the tree
        ====================  ==============  ===================  ======================
        """
        sequence = None
        try:
            if self._admission.admits(limits, hit):
                pages = self._prefixes.secure(hit, self.take_pages) if self._prefixes else hit.pages
                sequence = ElasticSequenceKV(self, max_length, limits, hit, pages)
        except NoRoomError:
            return None
        finally:
            if sequence is None and hit.cursor is not None and self._prefixes is not None:
                self._prefixes.release(hit.cursor)
        if sequence is not None:
            self._open[id(sequence)] = sequence
        return sequence

    def tick(self) -> float | None:
        """See `KVCache.tick`."""
        now = self._clock()
        keep = self._options.keep_prefixes_s
        idle = None if self._open else now - self._idle_since
        if idle is not None and keep is not None and idle >= keep and self._prefixes is not None:
            self._prefixes.evict_all()
        for kind in self._kinds:
            kind.pool.tick()
        self._admission.lower_promise()
        self.segments.tick()
        if idle is None:
            return None
        waits = [self._options.quiet_s] if self._above_start() else []
        if self.budget is not None:
            waits.append(POLL_S)
        if keep is not None and idle < keep and self._prefixes is not None:
            waits.append(keep - idle)
        # Not before the quiet time is really over, and not so often that an idle server is busy.
        return max(0.05, min(waits)) if waits else None

    def reset_prefixes(self) -> None:
        """See `KVCache.reset_prefixes`."""
        if self._prefixes is not None:
            self._prefixes.forget_all()

    def close(self) -> None:
        """Give all memory back; every sequence must be closed. A driver that was passed in stays open."""
        assert not self._open, "a sequence is still open"
        if self._closed:
            return
        self.reset_prefixes()
        self._layers.clear()
        self._give_back()
        self._closed = True

    def _give_back(self) -> None:
        for kind in self._kinds:
            kind.close()
        self.segments.close()
        if self.budget is not None:
            self.budget.close()
        if self._own_driver:
            self._driver.close()

    def statistics(self) -> KVStatistics:
        """See `KVCache.statistics`."""
        prefixes = self._prefixes
        used = [kind.pool.used * kind.page_bytes for kind in self._kinds]
        idle = [
            prefixes.evictable(index) * kind.page_bytes if prefixes else 0
            for index, kind in enumerate(self._kinds)
        ]
        sequences = tuple(self._open.values())  # a copy: another thread may open and close some meanwhile
        segments = self.segments.statistics()
        return KVStatistics(
            capacity_bytes=0 if self._closed else self._capacity_bytes(),
            mapped_bytes=segments.created * self._size.segment_bytes,
            used_bytes=sum(used),
            held_bytes=max(0, sum(used) - sum(idle)),
            promised_bytes=sum(
                sequence.promised_pages(index) * kind.page_bytes
                for index, kind in enumerate(self._kinds)
                for sequence in sequences
            ),
            sequences=len(sequences),
            tokens=sum(sequence.length for sequence in sequences),
            cached_tokens=prefixes.tokens if prefixes else 0,
            host_bytes=prefixes.host_bytes if prefixes else 0,
            host_tokens=prefixes.host_tokens if prefixes else 0,
            evicted_tokens=prefixes.evicted_tokens if prefixes else 0,
            restored_tokens=prefixes.restored_tokens if prefixes else 0,
            **(self.segments.budget.beside() if self.segments.budget else {}),
            segments_created=segments.ever_created,
            segments_destroyed=segments.ever_destroyed,
        )

    # What follows is for the cache's own sequences.

    def layer(self, number: int) -> tuple[int, LayerStore]:
        """Return the kind of a layer and its keys and values.

        Raises:
            DriverError: The driver is closed, and with it the memory is gone.
        """
        self._driver.check_open()
        return self._layers[number]

    def read_check(self, layer: int) -> Callable[[int, int, int], None] | None:
        """Return what checks that slots of a layer were written before they are read; None unless in the debug mode.

        It takes (position, slot, count) and raises DefectError.
        """
        kind = self._kinds[self._layers[layer][0]]
        return partial(kind.guard.check, kind.layers.index(layer)) if kind.guard is not None else None

    def retention(self, kind: int) -> LayerRetention:
        """Return which positions a kind of layers keeps."""
        return self._kinds[kind].retention

    def take_pages(self, kind: int, count: int, after: int | None = None) -> NDArray[np.int32]:
        """Return `count` pages, evicting prefixes that nobody uses when there is no other room.

        Raises:
            NoRoomError: There is none even then.
        """
        if count <= 0:
            return np.empty(0, np.int32)
        self._driver.check_open()
        pool = self._kinds[kind].pool
        while (pages := pool.alloc(count, after)) is None:
            if self._prefixes is None or not self._prefixes.evict(kind, count - self._kinds[kind].free_pages):
                raise NoRoomError(
                    f"no room for {count} pages of KV cache",
                    "lower the load, or give the server more memory",
                )
        return pages

    def share_pages(self, kind: int, pages: NDArray[np.int32]) -> None:
        """Count one more user of pages."""
        self._kinds[kind].pool.share(pages)

    def free_pages(self, kind: int, pages: NDArray[np.int32]) -> None:
        """Count one user of pages less."""
        if len(pages):
            self._kinds[kind].pool.free(pages)

    @property
    def device(self) -> torch.device:
        """Where the keys and values are."""
        return self._device

    def on_device(self, slots: NDArray[np.int64]) -> torch.Tensor:
        """Return slots as an index on the cache's device."""
        import torch

        return torch.from_numpy(slots).to(self._device)

    @property
    def prefixes(self) -> PrefixStore | None:
        """The prefixes that requests share, if they do."""
        return self._prefixes

    def check_integrity(self) -> None:
        """See `KVCache.check_integrity`."""
        none = np.empty(0, np.int32)
        in_tree = self._prefixes.check_integrity() if self._prefixes else [none] * len(self._kinds)
        for index, kind in enumerate(self._kinds):
            kind.pool.check_integrity()
            held = [sequence.held_pages(index) for sequence in self._open.values()]
            users = np.bincount(np.concatenate([in_tree[index], *held]), minlength=kind.pool.max_pages)
            everything = np.arange(kind.pool.max_pages, dtype=np.int32)
            assert np.array_equal(users, kind.pool.references(everything)), "a page is miscounted"
        for sequence in self._open.values():
            sequence.check_integrity()

    def forget(self, sequence: ElasticSequenceKV) -> None:
        """Forget a closed sequence."""
        if self._open.pop(id(sequence), None) is not None and not self._open:
            self._idle_since = self._clock()

    def compact(self) -> bool:
        """Empty a segment by moving pages of sequences, which must hold all they took; return whether one is empty."""
        return any(
            compact(each, [sequence.table(index) for sequence in self._open.values()])
            for index, each in enumerate(self._kinds)
        )

    def _new_kind(self, retention: LayerRetention, numbers: tuple[int, ...], form: KVFormat) -> LayerKind:
        rows = [form.row_bytes] * len(numbers)
        # Addresses cost nothing: enough for this kind to take all there may ever be.
        capacity = self._options.cap.fixed_bytes or self._driver.memory().total
        page_bytes = sum(rows) * self._size.page_tokens
        pool = PagePool(self.segments, rows, self._size.page_tokens, capacity // page_bytes)
        kind = LayerKind(retention, numbers, pool)
        try:
            kind.open_stores(form)
            if self._options.debug or debug_wanted():
                kind.watch_pages()
        except BaseException:
            kind.close()
            raise
        return kind

    def _keep_initial(self, options: KVOptions) -> None:
        """Take the memory that the cache keeps from its start on."""
        of_tokens = self._size.needed_bytes(options.initial_tokens) if options.initial_tokens else 0
        wanted = max(int(options.initial_gib * GIB), of_tokens)
        try:
            # Not above the cap: a fixed size is the cap, which is no whole number of segments.
            most = self.segments.limit_segments() if options.is_fixed else wanted
            self.segments.keep(min(most, -(-wanted // self._size.segment_bytes)))
        except NoRoomError as error:
            raise InputError(
                f"the initial size, {format_bytes(wanted)}, has no room: {error.message}",
                "lower --kv-initial, or raise --kv-cache-gib",
            ) from error

    def _capacity_bytes(self) -> int:
        # Not `room`, which asks page pools: a server asks while its engine's thread works with them.
        return self.segments.limit_segments() * self._size.segment_bytes

    def _above_start(self) -> bool:
        start = max(self._size.start_bytes // self._size.segment_bytes, self.segments.kept)
        return self.segments.statistics().created > start
