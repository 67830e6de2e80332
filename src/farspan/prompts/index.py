"""The token index of a corpus: its ids and where they stand in its text, made once and then mapped from disk.

Each segment is a folder of three files: the text as bytes, its ids (int32), and marks, which say for the start of
every piece (about 16 KB) which token and which byte it is. Between two marks a cut's token number follows from the
ids' byte lengths, or from encoding up to it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farspan.errors import InputError
from farspan.prompts.cache import cache_folder, publish_folder
from farspan.prompts.corpus import PIECE_CHARACTERS, Corpus, PhraseCorpus, split_pieces
from farspan.prompts.cuts import Proof
from farspan.prompts.parts import WordTable
from farspan.prompts.tokenizer import TokenIds, Tokenizer, as_ids

# Part of the key: raise it whenever the layout of a segment or the way a text is split changes.
_INDEX_VERSION = 2

# A corpus of fewer characters is repeated in its one segment.
_LEAST_CHARACTERS = 2**15

# From so many segments on, encoding all phrases of a corpus once is cheaper than encoding the segments.
_PHRASES_PAY = 4


@dataclass(frozen=True, slots=True)
class IndexedSegment:
    """One segment's text and ids, mapped from disk.

    Attributes:
        text: UTF-8.
        ids: int32 [tokens].
        marks: int64 [pieces + 1, 2]: the token and the byte at which each piece begins, and the ends.
    """

    text: memoryview
    ids: TokenIds
    marks: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """Tokens in the segment."""
        return len(self.ids)

    def piece_at(self, token: int) -> int:
        """Return the number of the piece that holds a token."""
        return int(np.searchsorted(self.marks[:, 0], token, side="right")) - 1

    def piece(self, number: int) -> tuple[str, TokenIds]:
        """Return a piece's text and ids."""
        (first, start), (last, end) = self.marks[number].tolist(), self.marks[number + 1].tolist()
        return str(self.text[start:end], "utf-8"), self.ids[first:last]


class CorpusIndex:
    """The segments of a corpus as one tokenizer sees them.

    Args:
        corpus: The text.
        tokenizer: Whose ids.
        folder: Where segments are kept; the cache folder when None.
    """

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, folder: Path | None = None) -> None:
        self.corpus = corpus
        self.tokenizer = tokenizer
        key = blake2b(f"{_INDEX_VERSION} {corpus.key} {tokenizer.fingerprint}".encode(), digest_size=16)
        self._folder = (folder or cache_folder() / "index") / key.hexdigest()
        self._segments: dict[int, IndexedSegment] = {}

    def segment(self, number: int) -> IndexedSegment:
        """Return a segment, made now if it is not in the cache."""
        found = self._segments.get(number)
        if found is None:
            if not self._folder_of(number).is_dir():
                self._make(number)
            found = self._segments[number] = _map_segment(self._folder_of(number))
        return found

    def passes(self, tokens: int) -> float:
        """How often so many tokens go through the corpus; 0 where it does not end, or they need not all of it."""
        count = self.corpus.segments
        if count is None or not all(self._folder_of(number).is_dir() for number in range(count)):
            return 0.0
        whole = sum(self.segment(number).tokens for number in range(count))
        return tokens * self._times(self.corpus.segment(0)) / whole if whole else 0.0

    def prepare(self, numbers: Iterable[int]) -> None:
        """Make several segments at once, one a core."""
        missing = [number for number in dict.fromkeys(numbers) if not self._folder_of(number).is_dir()]
        corpus = self.corpus
        if len(missing) >= _PHRASES_PAY and isinstance(corpus, PhraseCorpus) and self._add_up(corpus.phrases):
            table = WordTable.of(self.tokenizer, corpus.phrases)
            self._run(lambda number: self._save(number, _from_phrases(corpus, number, table)), missing)
        elif self.tokenizer.backend == "tiktoken":  # the others bring threads of their own
            self._run(self.segment, missing)

    def _add_up(self, phrases: tuple[str, ...]) -> bool:
        """Return whether the ids of phrases do not depend on what surrounds them."""
        return self.tokenizer.proof is not Proof.CHECKED and not self.tokenizer.holds_control(
            "".join(phrases)
        )

    def _run(self, make: Callable[[int], object], numbers: Sequence[int]) -> None:
        with ThreadPoolExecutor(max(1, min(usable_cores(), len(numbers)))) as threads:
            for _ in threads.map(make, numbers):
                pass

    def _folder_of(self, number: int) -> Path:
        return self._folder / f"{number:06d}"

    def _make(self, number: int) -> None:
        pieces = split_pieces(self.tokenizer.clean(self._text_of(number)))
        ids = self.tokenizer.encode_pieces(pieces)
        encoded = [piece.encode() for piece in pieces]
        marks = np.zeros((len(pieces) + 1, 2), np.int64)
        marks[1:, 0] = np.cumsum([len(part) for part in ids])
        marks[1:, 1] = np.cumsum([len(part) for part in encoded])
        joined = np.concatenate(ids) if ids else np.zeros(0, np.int32)
        self._save(number, IndexedSegment(memoryview(b"".join(encoded)), joined, marks))

    def _text_of(self, number: int) -> str:
        """Return a segment's text; a short corpus repeated, as it will be read, so that prompts have few parts."""
        text = self.corpus.segment(number)
        times = self._times(text)
        return " ".join([text.strip()] * times) if times > 1 else text

    def _times(self, text: str) -> int:
        """How often a corpus of this one text stands in its segment."""
        is_short = self.corpus.segments == 1 and 0 < len(text) < _LEAST_CHARACTERS
        return _LEAST_CHARACTERS // len(text) if is_short else 1

    def _save(self, number: int, segment: IndexedSegment) -> None:
        def write(draft: Path) -> None:
            (draft / "text").write_bytes(segment.text)
            np.save(draft / "ids.npy", segment.ids)
            np.save(draft / "marks.npy", segment.marks)

        try:
            publish_folder(self._folder_of(number), write)
        except OSError as error:
            raise InputError(
                f"the token index cannot be written to {self._folder} ({error.strerror})",
                "free some space, or set XDG_CACHE_HOME to a folder that can be written",
            ) from error


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _from_phrases(corpus: PhraseCorpus, number: int, table: WordTable) -> IndexedSegment:
    """Put a segment together from phrases whose ids are known: they meet at cuts, so nothing is left to encode."""
    chosen = corpus.segment_phrases(number)
    tokens = np.cumsum(table.ids.lengths[chosen])
    sizes = np.cumsum(table.text.lengths[chosen])
    last = np.searchsorted(sizes, np.arange(PIECE_CHARACTERS, sizes[-1], PIECE_CHARACTERS), side="right") - 1
    last = np.append(last, len(chosen) - 1)
    marks = np.zeros((len(last) + 1, 2), np.int64)
    marks[1:, 0], marks[1:, 1] = tokens[last], sizes[last]
    return IndexedSegment(
        memoryview(table.text.gather(chosen).tobytes()), as_ids(table.ids.gather(chosen)), marks
    )


def _map_segment(folder: Path) -> IndexedSegment:
    try:
        marks = np.load(folder / "marks.npy")
        size = int(marks[-1, 1])
        if size == 0:
            return IndexedSegment(memoryview(b""), np.zeros(0, np.int32), marks)
        ids = np.load(folder / "ids.npy", mmap_mode="r").view(np.ndarray)
        with (folder / "text").open("rb") as file:
            text = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if len(ids) != marks[-1, 0] or len(text) != size:
            raise ValueError("sizes do not agree")
    except (OSError, ValueError) as error:
        raise InputError(
            f"the token index in {folder} is damaged ({error})", "delete that folder; it is made again"
        ) from error
    return IndexedSegment(text, ids, marks)
