"""A prefix that several prompts share, token for token."""

from __future__ import annotations

import random
from dataclasses import dataclass

from farspan.errors import InputError
from farspan.prompts.corpus_reader import CorpusReader
from farspan.prompts.index import CorpusIndex
from farspan.prompts.parts import Part, TextPart
from farspan.prompts.tokenizer import Tokenizer, as_ids


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The tokens at the start of a prompt that other prompts have too.

    Args:
        tokens: How many: BOS or the template's opening, and the text before anything of the prompt's own.
        seed: Decides them: prompts of one tokenizer, task, chat or not, and the same prefix begin alike.
    """

    tokens: int
    seed: int

    def check_least(self, least: int) -> None:
        """Refuse a prefix shorter than what every prompt begins with.

        Raises:
            InputError: It is.
        """
        if self.tokens < least:
            raise InputError(
                f"a shared prefix of {self.tokens} tokens is shorter than the {least} every prompt begins with",
                f"share {least} tokens or more",
            )


def lay_out_shared(index: CorpusIndex, shared: SharedPrefix, head_tokens: int, seed: int) -> list[Part]:
    """Return what follows the head of a prompt up to the end of its shared prefix, and one word of its own.

    The word goes by the prompt's seed: neighbouring seeds part exactly where the prefix ends, as long as they are
    fewer than the tokenizer has words of one token.

    Args:
        index: The corpus, as the prompt's tokenizer sees it.
        shared: The prefix.
        head_tokens: Tokens of it that the head is.
        seed: The prompt's own.

    Raises:
        InputError: The prefix is shorter than the head.
    """
    shared.check_least(head_tokens)
    wanted = shared.tokens - head_tokens
    parts: list[Part] = []
    if wanted:
        parts += CorpusReader(index, wanted, random.Random(f"shared {shared.seed}")).read(wanted)
    parts += lay_out_filling(index.tokenizer, wanted - sum(part.tokens for part in parts), shared.seed)
    own = index.tokenizer.fillers[seed % len(index.tokenizer.fillers)]
    return [*parts, TextPart(as_ids([own.token_id]), own.text.encode())]


def lay_out_filling(tokenizer: Tokenizer, missing: int, seed: int) -> list[Part]:
    """Return words of one token each."""
    if not missing:
        return []
    fillers = random.Random(f"filling {seed}").choices(tokenizer.fillers, k=missing)
    text = "".join(filler.text for filler in fillers)
    return [TextPart(as_ids([filler.token_id for filler in fillers]), text.encode())]
