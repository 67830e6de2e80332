"""Prompts of random token ids: for a model whose answers mean nothing, and whose times do not depend on the words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from farspan.errors import UnsupportedError

_IDS_IN_A_PIECE = 2**17


@dataclass(frozen=True, slots=True)
class RandomPrompt:
    """A prompt of exactly `tokens` ids, drawn evenly; no two seeds share a beginning.

    Args:
        tokens: Its length.
        ids: The ids to draw from.
        seed: Decides them.
    """

    tokens: int
    ids: range
    seed: int

    @property
    def answer(self) -> str:
        """What was planted: nothing."""
        return ""

    def iter_ids_json(self) -> Iterator[bytes]:
        """Yield the ids as a JSON array, in pieces."""
        numbers = np.random.default_rng(self.seed)
        left, opening = self.tokens, b"["
        while left:
            count = min(left, _IDS_IN_A_PIECE)
            drawn = numbers.integers(self.ids.start, self.ids.stop, size=count)
            yield opening + ",".join(map(str, drawn.tolist())).encode()
            left, opening = left - count, b","
        yield b"]"

    def iter_json_string(self) -> Iterator[bytes]:
        """Refuse to be text: ids drawn at random are no words.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError("a prompt of random ids has no text", "send it as ids")

    def score(self, reply: str) -> float:  # noqa: ARG002
        """Nothing was planted: any reply will do."""
        return 1.0
