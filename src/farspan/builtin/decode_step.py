"""One token for each of several sequences in one go, recorded once as a CUDA graph for each batch size and replayed.

A graph's addresses are fixed, and so are those of the elastic cache: its ranges are reserved for all they may ever
grow to. What changes from step to step are data that lie at fixed addresses too: tokens, positions and page tables.
Pages that come or go between two replays are named, or no longer named, by these tables; a graph knows of none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from farspan.builtin.kernels.operations import PageView
from farspan.builtin.model import LlamaModel
from farspan.kv.kvcache import ElasticKVCache
from farspan.kv.sequence import ElasticSequenceKV

_LOG = logging.getLogger(__name__)
# The most sequences of one run, and the batch sizes that graphs are captured for; a smaller batch is filled up.
LARGEST_BATCH = 16
_BATCHES = (1, 2, 4, 8, LARGEST_BATCH)


class Decoded(NamedTuple):
    """What a step computed: float32 logits [sequences, vocab] and the likeliest token of each, int64."""

    logits: torch.Tensor
    likeliest: torch.Tensor

    def copy(self) -> Decoded:
        """Return what the next step does not overwrite."""
        return Decoded(self.logits.clone(), self.likeliest.clone())


Run = Callable[[], Decoded]
# Records what a function without arguments launches, and returns what launches it again.
Capture = Callable[[Run], Run]


class DecodeInput(NamedTuple):
    """One sequence's next token; room for it has been appended."""

    sequence: ElasticSequenceKV
    token_id: int
    position: int


@dataclass(slots=True)
class _Row:
    """What the device's page tables say in one row.

    Attributes:
        sequence: Whose pages they are.
        held: First page, page after the last and `PageTable.replacements` of each kind as they were written.
    """

    sequence: ElasticSequenceKV | None = None
    held: dict[int, tuple[int, int, int]] = field(default_factory=dict)


class DecodeStep:
    """Computes steps of one token a sequence, by graph where one could be captured.

    Args:
        model: What computes.
        cache: What its sequences were opened on.
        max_model_len: The most positions of a sequence.
        max_num_seqs: The most sequences of one step; no more graphs are made than it needs.
        capture: How graphs are made; None computes each step anew.
    """

    def __init__(
        self,
        model: LlamaModel,
        cache: ElasticKVCache,
        max_model_len: int,
        max_num_seqs: int,
        capture: Capture | None,
    ) -> None:
        self._model = model
        self._page_tokens = cache.page_tokens
        self._stores = [cache.layer(number) for number in range(len(model.config.layers))]
        kinds = 1 + max(kind for kind, _ in self._stores)
        self._chunks = [cache.retention(kind).chunk for kind in range(kinds)]
        self.largest = min(max_num_seqs, LARGEST_BATCH)
        self._rows = [_Row() for _ in range(self.largest)]
        device = model.device
        # Token ids, positions, rows of the tables and the first page in each kind.
        fields = 3 + kinds
        self._host = torch.zeros(fields, self.largest, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._data = torch.zeros(fields, self.largest, dtype=torch.int64, device=device)
        self._tables = [
            torch.zeros(self.largest, self._columns(chunk, max_model_len), dtype=torch.int32, device=device)
            for chunk in self._chunks
        ]
        self._runs: dict[int, Run] = {}
        if capture is not None:
            self._capture(capture)

    @property
    def graphs(self) -> tuple[int, ...]:
        """Batch sizes that a graph was captured for."""
        return tuple(sorted(self._runs))

    def __call__(self, inputs: Sequence[DecodeInput]) -> Decoded:
        """Compute one step; what is returned holds until the next. Above `largest` sequences it takes several runs."""
        if len(inputs) > self.largest:
            runs = [self(inputs[at : at + self.largest]).copy() for at in range(0, len(inputs), self.largest)]
            logits, likeliest = (torch.cat(parts) for parts in zip(*runs, strict=True))
            return Decoded(logits, likeliest)
        size = next((size for size in self.graphs if size >= len(inputs)), len(inputs))
        self._write(inputs, size)
        decoded = self._runs[size]() if size in self._runs else self._run(size)()
        return Decoded(decoded.logits[: len(inputs)], decoded.likeliest[: len(inputs)])

    def _columns(self, chunk: int | None, max_model_len: int) -> int:
        """Return the most pages of a sequence that one step sees in a kind of layers."""
        seen = max_model_len if chunk is None else min(chunk, max_model_len)
        return -(-seen // self._page_tokens) + 1  # a chunk may begin and end within a page

    def _run(self, size: int) -> Run:
        """Return what computes a batch of one size from the data on the device."""
        token_ids, positions, rows, *first_pages = (row[:size] for row in self._data)
        views = [
            PageView(table, rows, first, self._page_tokens, chunk)
            for table, first, chunk in zip(self._tables, first_pages, self._chunks, strict=True)
        ]

        def run() -> Decoded:
            logits = self._model.decode(token_ids, positions, views, self._stores)
            return Decoded(logits, logits.argmax(-1))

        return run

    def _capture(self, capture: Capture) -> None:
        self._data[1] = -1  # nobody is there: nothing is read or written
        sizes = sorted({min(size, self.largest) for size in _BATCHES}, reverse=True)
        try:
            for size in sizes:  # the largest first: the others find their memory in its
                self._runs[size] = capture(self._run(size))
        except Exception as problem:  # noqa: BLE001 whatever it is, each step can be computed anew
            self._runs.clear()
            said = " ".join(str(problem).split())[:300] or type(problem).__name__
            _LOG.warning("decoding runs without CUDA graphs: %s", said)

    def _write(self, inputs: Sequence[DecodeInput], size: int) -> None:
        """Put the data of a step where the device reads them."""
        rows = self._rows_of([each.sequence for each in inputs])
        host = self._host.numpy()
        host[1, len(inputs) : size] = -1
        for index, (each, row) in enumerate(zip(inputs, rows, strict=True)):
            host[:3, index] = each.token_id, each.position, row
            for kind in range(len(self._chunks)):
                host[3 + kind, index] = self._write_table(kind, row, each)
        self._data.copy_(self._host, non_blocking=True)

    def _rows_of(self, sequences: Sequence[ElasticSequenceKV]) -> list[int]:
        """Return a row for each sequence: its own, or one of a sequence that is not in this step."""
        row_of = {id(row.sequence): index for index, row in enumerate(self._rows) if row.sequence is not None}
        present = {id(sequence) for sequence in sequences}
        spare = [index for index, row in enumerate(self._rows) if id(row.sequence) not in present]
        found = []
        for sequence in sequences:
            index = row_of.get(id(sequence))
            if index is None:
                index = spare.pop()
                self._rows[index] = _Row(sequence)
            found.append(index)
        return found

    def _write_table(self, kind: int, row: int, each: DecodeInput) -> int:
        """Bring a row of a kind's table up to date and return the number of its first page."""
        table, chunk = each.sequence.table(kind), self._chunks[kind]
        first = 0 if chunk is None else each.position // chunk * chunk // self._page_tokens
        stop = each.position // self._page_tokens + 1
        held = self._rows[row].held.get(kind)
        start = first
        if held is not None and (held[0], held[2]) == (first, table.replacements) and held[1] <= stop:
            start = held[1]
        if start < stop:
            pages = torch.from_numpy(table.pages(start, stop))
            self._tables[kind][row, start - first : stop - first].copy_(pages)
            self._rows[row].held[kind] = (first, stop, table.replacements)
        return first


class CudaGraphs:
    """Captures CUDA graphs that share one pool of memory; only one replay's results are looked at at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> Run:
        """Capture what `run` launches, after a first time that compiles and allocates what stays."""
        current = torch.cuda.current_stream()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(current)
        with torch.inference_mode(), torch.cuda.stream(aside):
            run()
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with (
            torch.inference_mode(),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            decoded = run()

        def replay() -> Decoded:
            graph.replay()
            return decoded

        return replay
