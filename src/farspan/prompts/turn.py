"""One turn of a conversation whose prompts grow: what it adds to those before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from farspan.prompts.prompt import Prompt
from farspan.prompts.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Turn:
    """Which turn of a conversation a prompt is for.

    Args:
        seed: The conversation's: decides what each of its turns plants.
        number: From 0.
    """

    seed: int
    number: int


@dataclass(frozen=True, slots=True)
class TurnPrompt:
    """What one turn adds to a conversation: the end of a prompt of the conversation's whole length.

    Args:
        prompt: That prompt; what stands in it before the turn is not what was said.
        start: Where the turn begins in it.
        tokenizer: Encodes an answer that comes without its token ids.
    """

    prompt: Prompt
    start: int
    tokenizer: Tokenizer

    @property
    def answer(self) -> str:
        """What was planted."""
        return self.prompt.answer

    @property
    def filler_id(self) -> int:
        """The token that stands for one missing from an answer."""
        return self.tokenizer.fillers[0].token_id

    def score(self, reply: str) -> float:
        """Return how much of the answer a reply brings back, 0 to 1."""
        return self.prompt.score(reply)

    def encode_answer(self, reply: str) -> Sequence[int]:
        """Return token ids of a reply, which may not be those it was made of."""
        text = reply.strip()
        ids: list[int] = self.tokenizer.encode_piece(f" {text}").tolist() if text else []
        return ids

    def iter_ids_json(self) -> Iterator[bytes]:
        """Yield its ids with commas between them: inside of a JSON array, in pieces."""
        return self.prompt.iter_ids_inside(self.start)

    def iter_json_string(self) -> Iterator[bytes]:
        """Refuse: a conversation is sent as token ids."""
        raise TypeError("a turn of a conversation is sent as token ids")
