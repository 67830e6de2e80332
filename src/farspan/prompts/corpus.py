"""Corpora: where a prompt's text comes from, in segments of about 2 MB that can be prepared one by one."""

from __future__ import annotations

import bisect
import re
from abc import ABC, abstractmethod
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farspan.errors import InputError
from farspan.prompts.corpus_files import find_corpus_files
from farspan.prompts.cuts import find_cuts, is_cut
from farspan.prompts.generator import GENERATOR_VERSION, choose_phrases, generate_text, grammar

SEGMENT_BYTES = 2_000_000

# A text is brought into pieces of at most this many characters; each piece begins at a cut.
PIECE_CHARACTERS = 16_384

# A longer stretch without a cut is given one, so that a cut is never far away; so long a blank is cut short.
_LONGEST_STRETCH = 1024
_LONGEST_BLANK = 128

_BLOCK = 8 * 2**20
_SEPARATOR = b"\n\n"


class Corpus(ABC):
    """Text in segments.

    Attributes:
        name: For messages.
        key: Names the content: equal keys, equal text.
        segments: How many segments there are; None when they never end.
    """

    name: str
    key: str
    segments: int | None

    @abstractmethod
    def segment(self, number: int) -> str:
        """Return the text of a segment, as it is."""


class PhraseCorpus(Corpus):
    """Text made of phrases that are known beforehand."""

    @property
    @abstractmethod
    def phrases(self) -> tuple[str, ...]:
        """The phrases all segments are made of, each beginning at a cut."""

    @abstractmethod
    def segment_phrases(self, number: int) -> NDArray[np.int64]:
        """Return which phrases a segment is made of."""


class BuiltinCorpus(PhraseCorpus):
    """The built-in generator's endless text for one seed."""

    segments = None

    def __init__(self, seed: int = 0) -> None:
        self.name = "built-in text"
        self.key = f"builtin-{GENERATOR_VERSION}-{seed}"
        self._seed = seed

    def segment(self, number: int) -> str:
        """Return one part of the generator's text."""
        return generate_text(SEGMENT_BYTES, self._seed, number).decode("ascii")

    @property
    def phrases(self) -> tuple[str, ...]:
        """The generator's phrases."""
        return grammar().phrases

    def segment_phrases(self, number: int) -> NDArray[np.int64]:
        """Return which phrases a segment is made of."""
        return choose_phrases(SEGMENT_BYTES, self._seed, number)


class TextCorpus(Corpus):
    """A file, or all text files of a folder in the order of their names, joined by blank lines.

    Args:
        path: The file or folder.
        field: Of JSON records, the field that holds the text; "text" when None.

    Attributes:
        left_out: Files of the folder that hold no text.

    Raises:
        InputError: The path is missing, unreadable, of a kind that cannot be read, or holds no text.
    """

    def __init__(self, path: str | Path, field: str | None = None) -> None:
        self.name = str(path)
        found = find_corpus_files(path, field)
        files, self.left_out = found.files, found.left_out
        sizes = [file.stat().st_size for file in files]
        self._files = files
        self._ends = list(accumulate(size + len(_SEPARATOR) for size in sizes))
        self.segments = -(-self._size // SEGMENT_BYTES)

    @cached_property
    def key(self) -> str:  # type: ignore[override]
        """A hash of the content."""
        digest = blake2b(digest_size=16)
        for start in range(0, self._size, _BLOCK):
            digest.update(self._read(start, start + _BLOCK))
        return digest.hexdigest()

    def segment(self, number: int) -> str:
        """Return one segment; bytes that are not UTF-8 become U+FFFD."""
        return self._read(self._border(number), self._border(number + 1)).decode("utf-8", "replace")

    @property
    def _size(self) -> int:
        return self._ends[-1]

    def _border(self, number: int) -> int:
        """Return where a segment begins: at the first cut after its share of the bytes, or between characters."""
        start = number * SEGMENT_BYTES
        if start == 0 or start >= self._size:
            return min(start, self._size)
        window = self._read(start, start + 4 * _LONGEST_STRETCH)
        cut = re.search(rb"(?<=[!-~]) (?=[!-~])", window)
        if cut:
            return start + cut.start()
        return start + next((i for i, byte in enumerate(window) if byte & 0xC0 != 0x80), 0)

    def _read(self, start: int, end: int) -> bytes:
        parts = []
        position = start
        while position < min(end, self._size):
            number = bisect.bisect_right(self._ends, position)
            first = self._ends[number - 1] if number else 0
            last = min(end, self._ends[number])
            with self._files[number].open("rb") as file:
                file.seek(position - first)
                content = file.read(min(last, self._ends[number] - len(_SEPARATOR)) - position)
            # What the file does not have is the separator; a file cut short meanwhile is filled up with line breaks.
            parts.append(content.ljust(last - position, b"\n"))
            position = last
        return b"".join(parts)


def open_corpus(path: str | Path | None, field: str | None = None) -> Corpus:
    """Return the corpus of a file or folder; built-in text when there is none.

    Raises:
        InputError: The path cannot be used, or a field is named and no path.
    """
    if path is not None:
        return TextCorpus(path, field)
    if field is not None:
        raise InputError(f"--corpus-field {field} is of a corpus", "add --corpus FILE")
    return BuiltinCorpus()


def corpus_warnings(corpus: Corpus, passes: float) -> tuple[str, ...]:
    """Say what limits the worth of a prompt's text: a corpus that is repeated, files that were left out.

    Args:
        corpus: Where the text came from.
        passes: How often the prompt goes through it.
    """
    warnings = []
    if passes > 1:
        warnings.append(
            f"{corpus.name} is shorter than the prompt: its text stands there {passes:,.1f} times, one after the "
            "other; give a longer corpus, or none for built-in text, which does not repeat"
        )
    if isinstance(corpus, TextCorpus) and corpus.left_out:
        count, first = len(corpus.left_out), corpus.left_out[0]
        files = "1 file holds" if count == 1 else f"{count:,} files hold"
        warnings.append(f"{files} no text and {'is' if count == 1 else 'are'} left out, such as {first}")
    return tuple(warnings)


def split_pieces(text: str) -> list[str]:
    """Split a text into pieces that each begin at a cut: a space, then a character that is not white space.

    White space around the text goes, and a space is put first and into stretches that have no cut.
    """
    text = " " + _with_cuts(text.strip())
    pieces = []
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = start + PIECE_CHARACTERS
        near = max(start, end - _LONGEST_STRETCH)
        cut = _last_cut(text, near, end) or _last_cut(text, start, end)
        pieces.append(text[start:cut])
        start = cut
    pieces.append(text[start:])
    return [piece for piece in pieces if is_cut("x", piece)]


def _last_cut(text: str, start: int, end: int) -> int:
    """Return the last cut after `start` and before `end`, or 0."""
    return max((start + cut for cut in find_cuts(text[start:end])), default=0)


def _with_cuts(text: str) -> str:
    """Give every stretch of more than 1,024 characters without a cut one."""
    if _has_cuts_throughout(text):
        return text
    text = re.sub(rf"\s{{{_LONGEST_BLANK + 1},}}", lambda match: match[0][:_LONGEST_BLANK], text)
    borders = np.array([0, *find_cuts(text), len(text)])
    long = np.flatnonzero(np.diff(borders) > _LONGEST_STRETCH)
    parts = []
    done = 0
    for start, end in zip(borders[long].tolist(), borders[long + 1].tolist(), strict=True):
        parts += [text[done:start], _broken(text[start:end])]
        done = end
    return "".join([*parts, text[done:]])


def _has_cuts_throughout(text: str) -> bool:
    """Return whether every half stretch of a text has a cut between ASCII characters: quick, and true of most text."""
    content = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    visible = (content > ord(" ")) & (content < 127)
    cuts = (content[1:-1] == ord(" ")) & visible[:-2] & visible[2:]
    half = _LONGEST_STRETCH // 2
    # The first and last characters are no cuts; a cut in every half means none is further than the whole away.
    return bool(cuts[: len(cuts) // half * half].reshape(-1, half).any(axis=1).all())


def _broken(stretch: str) -> str:
    half = _LONGEST_STRETCH // 2
    parts = []
    for start in range(0, len(stretch), half):
        part = stretch[start : start + half]
        spaced = re.sub(r"(?<=\S)\s+(?=\S)", " ", part, count=1)
        parts.append(spaced if spaced != part else re.sub(r"(?<=\S)(?=\S)", " ", part, count=1))
    return "".join(parts)
