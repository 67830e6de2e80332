"""Prompts made of blocks of tokens, the same number the same block: those of a trace that says which blocks repeat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from farspan.errors import InputError, UnsupportedError
from farspan.prompts.cuts import Proof
from farspan.prompts.parts import TextPart, WordsPart, WordTable
from farspan.prompts.prompt import Prompt
from farspan.prompts.prompt_frame import encode_frame
from farspan.prompts.ragged import Ragged
from farspan.prompts.scoring import MatchKind, Scorer
from farspan.prompts.tokenizer import Tokenizer, as_ids

_DIGITS = 900  # of the numbers with three digits


def build_block_prompt(
    tokenizer: Tokenizer,
    *,
    tokens: int,
    blocks: Sequence[int],
    block_tokens: int,
    seed: int,
    output_tokens: int,
) -> Prompt:
    """Build a completion prompt of exactly `tokens` tokens out of numbered blocks of common words; nothing is planted.

    Two prompts of one seed and tokenizer begin alike for as many blocks as their numbers do, and no further than a few
    words beyond.

    Args:
        tokenizer: The server's.
        tokens: Exact length, BOS included.
        blocks: The number of each block; the last may be cut short.
        block_tokens: Tokens in a block.
        seed: Decides what the blocks are made of.
        output_tokens: How long the reply may be.

    Raises:
        InputError: The prompt is shorter than its beginning, or the blocks are not as many as it takes.
        UnsupportedError: The tokenizer's counts do not add up.
    """
    if tokenizer.proof is Proof.CHECKED:
        raise UnsupportedError(
            f"where a block ends cannot be told with {tokenizer.name}: its counts are not known to add up",
            "use lengths instead of a trace",
        )
    if len(blocks) != -(-tokens // block_tokens):
        raise InputError(
            f"{len(blocks)} blocks of {block_tokens} tokens do not make {tokens} tokens", "mend the trace"
        )
    # The recall checkpoint has no digits; each of its words is a token, also at the start.
    words = tokenizer.fillers
    opening = words[0].text[1:] if tokenizer.recall else str(100 + seed % _DIGITS)
    head = encode_frame(tokenizer, opening, "", chat=False).head
    if tokens < len(head):
        raise InputError(f"a prompt takes at least {len(head)} tokens, not {tokens}", "leave it out")
    chosen = np.concatenate([_choose_words(seed, number, block_tokens, len(words)) for number in blocks])
    table = WordTable(
        Ragged.of_strings([word.text for word in words]),
        Ragged.of_arrays([as_ids([word.token_id]) for word in words]),
    )
    return Prompt(
        tokens=tokens,
        task="trace",
        depth=0.0,
        seed=seed,
        chat=False,
        needle_positions=(),
        output_tokens=output_tokens,
        parts=(TextPart(head, opening.encode()), WordsPart.of(table, chosen[len(head) : tokens])),
        scorer=Scorer(MatchKind.ANY, ()),
    )


def _choose_words(seed: int, number: int, count: int, words: int) -> np.ndarray:
    bits = np.random.Generator(np.random.PCG64(np.random.SeedSequence((2, seed, number))))
    return bits.integers(words, size=count, dtype=np.uint16)
