"""A prompt: token ids and text that belong together, kept as parts so that many can be held at once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import orjson

from farspan.prompts.parts import Part
from farspan.prompts.scoring import MatchKind, Scorer
from farspan.prompts.tokenizer import TokenIds

CHUNK_BYTES = 2**20

_IDS_IN_A_CHUNK = 2**17


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of an exact number of tokens, as the server will count them.

    It holds references into mapped files rather than text of its own: `token_ids` and `text` are put together each
    time they are asked for, and `iter_text` and `iter_ids_json` never hold more than a chunk.

    Attributes:
        tokens: Tokens the server will count: text, BOS and, for a chat, the template.
        task: What is asked.
        depth: Where it was planted, 0 to 1; for tasks that plant in many places, as given.
        seed: What decided everything random in it.
        chat: The text is the one user message of a chat; otherwise it is a completion prompt.
        needle_positions: For each thing planted, the index in `token_ids` of its first token, ascending.
        output_tokens: How many tokens a reply needs, or as given.
        parts: What it is made of.
        scorer: Compares a reply with the answer.
        corpus_passes: How often it goes through its corpus: above 1 its text is repeated; 0 where it cannot be.
    """

    tokens: int
    task: str
    depth: float
    seed: int
    chat: bool
    needle_positions: tuple[int, ...]
    output_tokens: int
    parts: Sequence[Part]
    scorer: Scorer
    corpus_passes: float = 0.0

    @property
    def token_ids(self) -> TokenIds:
        """All ids, int32 [tokens], BOS and template included; put together at each call."""
        return np.concatenate([part.ids() for part in self.parts])

    @property
    def text(self) -> str:
        """The text to send: the completion prompt, or the user message; put together at each call."""
        content = b"".join(chunk for part in self.parts for chunk in part.iter_text())
        return content.decode()

    @property
    def answer(self) -> str:
        """What a right reply says; empty when nothing was planted."""
        return self.scorer.answer

    def score(self, reply: str, match: MatchKind | None = None) -> float:
        """Return how much of the answer a reply brings back, 0 to 1; `match` compares in another way."""
        return self.scorer.score(reply, match)

    def iter_text(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the text as UTF-8 in chunks of `chunk_bytes`, the last one shorter; characters may be split."""
        buffer = bytearray()
        for part in self.parts:
            for chunk in part.iter_text():
                view = memoryview(chunk)
                while len(buffer) + len(view) >= chunk_bytes:
                    taken = chunk_bytes - len(buffer)
                    buffer += view[:taken]
                    yield bytes(buffer)
                    buffer.clear()
                    view = view[taken:]
                buffer += view
        if buffer:
            yield bytes(buffer)

    def iter_json_string(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the text as a JSON string, quotes included, in chunks of about `chunk_bytes`."""
        yield b'"'
        held = b""
        for chunk in self.iter_text(chunk_bytes):
            whole, held = _whole_characters(held + chunk)
            yield orjson.dumps(whole.decode())[1:-1]
        yield b'"'

    def iter_ids_json(self) -> Iterator[bytes]:
        """Yield the ids as a JSON array in chunks, without a Python number for any of them."""
        before = b"["
        for chunk in self.iter_ids_inside():
            yield before + chunk
            before = b""
        yield before + b"]"

    def iter_ids_inside(self, start: int = 0) -> Iterator[bytes]:
        """Yield the ids from the `start`-th on with commas between them: inside of a JSON array, in chunks."""
        before = b""
        at = 0
        for part in self.parts:
            skipped = max(0, start - at)
            at += part.tokens
            if skipped >= part.tokens:
                continue
            ids = part.ids()[skipped:]
            for first in range(0, len(ids), _IDS_IN_A_CHUNK):
                chunk = np.ascontiguousarray(ids[first : first + _IDS_IN_A_CHUNK])
                yield before + orjson.dumps(chunk, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
                before = b","

    def write_text(self, target: Path | IO[bytes]) -> None:
        """Write the text as UTF-8 to a file, or to anything with `write`, in chunks."""
        _write(target, self.iter_text())

    def write_ids(self, target: Path | IO[bytes], *, as_json: bool = False) -> None:
        """Write the ids: to a file a numpy file (int32), or a JSON array where its name ends in `.json` or when asked;
        to a stream a JSON array."""
        if isinstance(target, Path) and target.suffix != ".json" and not as_json:
            _write(target, self._iter_npy())
        else:
            _write(target, self.iter_ids_json())

    def _iter_npy(self) -> Iterator[bytes]:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<i4", "fortran_order": False, "shape": (self.tokens,)}
        )
        yield header.getvalue()
        for part in self.parts:
            yield part.ids().astype("<i4", copy=False).tobytes()


def _write(target: Path | IO[bytes], chunks: Iterator[bytes]) -> None:
    if isinstance(target, Path):
        with target.open("wb") as file:
            file.writelines(chunks)
    else:
        for chunk in chunks:
            target.write(chunk)


def _whole_characters(content: bytes) -> tuple[bytes, bytes]:
    """Split UTF-8 into whole characters and the beginning of the next one."""
    for back in range(1, min(4, len(content)) + 1):
        byte = content[-back]
        if byte & 0xC0 == 0xC0:
            length = 2 + (byte >= 0xE0) + (byte >= 0xF0)
            return (content[:-back], content[-back:]) if length > back else (content, b"")
        if byte < 0x80:
            break
    return content, b""
