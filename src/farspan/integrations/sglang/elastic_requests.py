"""SGLang's table of requests and their tokens, in elastic memory: a row costs what its request can need.

SGLang makes it for every request that could ever run, each at the full context: 76 GiB for 2048 requests of 10M tokens.
A row has memory to the end of the prompt and of what may be generated, from the moment the request gets it, because
kernels write there without asking; everything beyond reads as zero, because they also read past a row's end.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from farspan.integrations.sglang.adapters import Adapter
from farspan.integrations.sglang.device_memory import DeviceMemory
from farspan.kv.memory.drivers.driver import NoRoomError
from farspan.kv.memory.zero_backed_rows import ZeroBackedRows
from farspan.sizes import format_bytes

_ENTRY = 4  # bytes of a token's slot
# Tokens a row is longer than its request can get: the overlap scheduler runs a step ahead, pages are rounded up.
_SLACK = 1024


class ElasticTable(ZeroBackedRows):
    """The table itself: int32, one row a request and one for padding, which is always backed whole."""

    def __init__(self, memory: DeviceMemory, rows: int, width: int) -> None:
        self.width = width
        self.ranks = memory.ranks
        self._memory = memory
        super().__init__(memory.segments, rows, width * _ENTRY, memory.wait)
        self.hold([(0, width * _ENTRY)])

    def size_for(self, request: Any) -> int:
        """Return the bytes of a row that a request can come to write."""
        most: int | None = request.sampling_params.max_new_tokens
        if most is None:
            return self.row_bytes
        return min(self.width, len(request.origin_input_ids) + most + _SLACK) * _ENTRY

    def try_hold(self, sizes: list[tuple[int, int]]) -> bool:
        """See `ZeroBackedRows.hold`; return whether there was room."""
        try:
            self.hold(sizes)
        except NoRoomError:
            return False
        return True

    def tick(self) -> None:
        """See `ZeroBackedRows.tick`."""
        super().tick()
        self._memory.note()

    def describe(self) -> str:
        """Return a line for the log."""
        return (
            f"farspan: request table of {self.rows:,} rows of {self.width:,} tokens, "
            f"{format_bytes(self.rows * self.row_bytes)} of addresses, {format_bytes(self.mapped_bytes)} of memory"
        )


def table_bytes(size: int, width: int) -> int:
    """Return the bytes of the table of `size` requests of `width` tokens, as if all of it were backed."""
    return (size + 1) * width * _ENTRY


def elastic_pool(adapter: Adapter, size: int, width: int, device: str, memory: DeviceMemory) -> Any:
    """Return a request pool of SGLang's own kind, of `size` requests, whose table is elastic."""
    base = import_module("sglang.srt.mem_cache.memory_pool").ReqToTokenPool
    table = ElasticTable(memory, size + 1, width)
    kind = _elastic_kind(base, adapter)
    return (_with_bare_rows(kind) if adapter.row_calls else _with_requests(kind, adapter))(
        size, width, device, table
    )


def _elastic_kind(base: Any, adapter: Adapter) -> Any:
    class ElasticReqToTokenPool(base):  # type: ignore[misc]
        """See `ReqToTokenPool`; what that says of rows holds, and their memory follows them."""

        def __init__(self, size: int, max_context_len: int, device: str, table: ElasticTable) -> None:
            # One column of SGLang's own, with everything else of the pool, and then the real table.
            super().__init__(size, 1, device, False)
            self.max_context_len = max_context_len
            self.elastic_table = table
            self.req_to_token = table.tensor(torch.int32)
            self.rows_are_backed = False
            self.prepared_rows: set[int] = set()
            self.ranks = table.ranks
            self.was_short = False
            self.agreed_rows: int | None = None

        def available_size(self) -> int:
            """Return the requests that could be admitted now: rows are free, and there is memory for them.

            Ranks agree on that when rows are prepared, and until then there is; or, where nobody prepares rows, in
            `agree_rows`.
            """
            if self.ranks is not None:
                most = len(self.free_slots)
                return most if self.agreed_rows is None else min(most, self.agreed_rows)
            return min(len(self.free_slots), self.elastic_table.affordable() + len(self.prepared_rows))

        def agree_rows(self) -> None:
            """Find the rows that all ranks have memory for; they must call it in the same iteration."""
            if self.ranks is not None:
                self.agreed_rows = self.ranks.least(self.elastic_table.affordable())

        def has_room(self) -> bool:
            """Return whether there is memory for a whole row; as far as ranks agree, since this was asked last."""
            if self.ranks is None:
                return self.elastic_table.affordable() > 0
            was_short, self.was_short = self.was_short, False
            return not was_short

        def prepare(self, reqs: list[Any]) -> bool:
            """Back the rows that `alloc` will give to those of `reqs` that have none; return whether there was room."""
            wanting = [one for one in reqs if adapter.row(one) is None]
            rows = self.next_rows(len(wanting))
            if rows is None:
                return False
            table = self.elastic_table
            held = table.try_hold(
                [(row, table.size_for(one)) for row, one in zip(rows, wanting, strict=True)]
            )
            if self.ranks is not None and rows and not self.ranks.least(held):
                self.was_short = True
                if held:
                    for row in set(rows) - self.prepared_rows:
                        table.release(row)
                return False
            if held:
                self.prepared_rows.update(rows)
            return held

        def forget_prepared(self) -> None:
            """Let go of prepared rows that no request took."""
            if not self.prepared_rows:
                return
            for row in self.prepared_rows.intersection(self.free_slots):
                self.elastic_table.release(row)
            self.prepared_rows.clear()

        def alloc(self, reqs: list[Any]) -> list[int] | None:
            """Give each request a row that is backed to where it can end; None, and no change, without room."""
            table = self.elastic_table
            rows = [adapter.row(each) for each in reqs]
            fresh = self.next_rows(rows.count(None))
            if fresh is None:
                return None
            order = iter(fresh)
            sizes = [
                (next(order) if row is None else row, table.size_for(each))
                for row, each in zip(rows, reqs, strict=True)
            ]
            if not table.try_hold(sizes):
                return None
            self.rows_are_backed = True
            try:
                taken: list[int] | None = super().alloc(reqs)
            finally:
                self.rows_are_backed = False
            return taken

        def next_rows(self, count: int) -> list[int] | None:
            """Return the rows that are given out next, None when there are not so many; low ones come first.

            They share segments, and are backed already by those who had them before.
            """
            self.free_slots.sort(reverse=adapter.takes_last)
            if count > len(self.free_slots):
                return None
            left = len(self.free_slots) - count
            return list(self.free_slots[left:] if adapter.takes_last else self.free_slots[:count])

        def clear(self) -> None:
            """Take all rows back."""
            super().clear()
            self.prepared_rows.clear()
            for row in range(1, self.elastic_table.rows):
                self.elastic_table.release(row)

    return ElasticReqToTokenPool


def _with_requests(kind: Any, adapter: Adapter) -> Any:
    class ElasticRequestRows(kind):  # type: ignore[misc]
        """A pool whose rows are given back by requests."""

        def free(self, req: Any) -> None:
            """Take a request's row back."""
            row = adapter.row(req)
            super().free(req)
            self.elastic_table.release(row)

    return ElasticRequestRows


def _with_bare_rows(kind: Any) -> Any:
    class ElasticBareRows(kind):  # type: ignore[misc]
        """A pool whose rows are also taken and given back without a request."""

        def alloc_rows(self, need_size: int) -> list[int] | None:
            """Take rows; those that no request was named for are backed whole."""
            if not self.rows_are_backed:
                rows = self.next_rows(need_size)
                table = self.elastic_table
                if rows is None or not table.try_hold([(row, table.row_bytes) for row in rows]):
                    return None
            taken: list[int] | None = super().alloc_rows(need_size)
            return taken

        def free_rows(self, indices: list[int]) -> None:
            """Take rows back."""
            super().free_rows(indices)
            for row in indices:
                self.elastic_table.release(row)

    return ElasticBareRows
