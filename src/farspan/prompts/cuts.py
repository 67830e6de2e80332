"""Where a text may be cut so that the parts' token counts add up: the proof every prompt rests on.

The cut rule: before a single space that stands between two characters that are not white space ("word| next").

A tokenizer is *additive* at such a cut when encoding `left + right` gives the ids of `left` followed by the ids of
`right`, whatever the two are. Three arguments establish it, and each tokenizer carries the one that holds for it:

PATTERN     The pre-tokenizer is one of the regular expressions below, alone or after others that match no white space.
            In each of them a match holds white space only at its front (or, for line breaks, at its end), so no match
            spans "x| y"; none looks behind, so what follows the cut is matched as if it stood alone; and the only
            look-ahead, `\\s+(?!\\S)`, is preceded by white space, so a left part that ends in another character is
            matched as it was. Merges stay inside matches.
SPLIT       The pre-tokenizer always splits at white space and nothing before it (normalizer) reaches across a space.
VOCABULARY  There is no pre-tokenizer, but no token of the vocabulary holds a space after another character, so no merge
            and no piece can span the cut. A few tokens of markup that do (Gemma's ">▁</") are no harm: where the
            characters around their space would meet at a cut, the text gets a line break instead.
CHECKED     None of these is known to hold. Prompts are then encoded again as a whole when built, and adjusted until the
            whole has the length asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

_CUT = re.compile(r"(?<=\S) (?=\S)")
_SENTENCE_CUT = re.compile(r"(?<=[.!?]) (?=\S)")


class Proof(StrEnum):
    """The proof that token counts add up at a cut; the module's text has the arguments."""

    PATTERN = "pattern"
    SPLIT = "split"
    VOCABULARY = "vocabulary"
    CHECKED = "checked"


GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")

O200K_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Written differently by different publishers; the argument above is about what they match.
_TEKKEN_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)

_QWEN3_5_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The last of three in a row: numbers and Chinese or Japanese are split off before it (NARROW_PATTERNS).
DEEPSEEK_PATTERN = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)

PROVEN_PATTERNS = frozenset(
    {
        GPT2_PATTERN,
        LLAMA3_PATTERN,
        QWEN2_PATTERN,
        O200K_PATTERN,
        DEEPSEEK_PATTERN,
        _TEKKEN_PATTERN,
        _CL100K_PATTERN,
        _QWEN3_5_PATTERN,
    }
)

# Patterns that some tokenizers split by first. No match of theirs holds white space or depends on what is around it.
NARROW_PATTERNS = frozenset(
    {r"\p{N}", r"\p{N}+", r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"}
)


def find_cuts(text: str, *, sentences: bool = False) -> list[int]:
    """Return the positions of the cuts of a text, in characters, ascending.

    Args:
        text: Any text.
        sentences: Only cuts that follow `.`, `!` or `?`.
    """
    return [match.start() for match in (_SENTENCE_CUT if sentences else _CUT).finditer(text)]


def is_cut(left: str, right: str) -> bool:
    """Return whether joining two texts makes a cut between them."""
    return bool(left[-1:].strip()) and right[:1] == " " and bool(right[1:2].strip())


def spanned_pairs(tokens: Iterable[str], space: str = "▁") -> set[tuple[str, str]]:
    """Return the characters around every cut that a token of the vocabulary spans.

    Where none of these pairs stands around a cut, no merge and no piece can span it: the VOCABULARY argument.

    Args:
        tokens: The vocabulary as written in tokenizer.json.
        space: How the vocabulary writes a space.

    Returns:
        The character before the space and the one after it, empty when the token ends with the space.
    """
    # Two spaces are no cut, so a token that holds two does not span one.
    spanning = re.compile(f"([^{space}]){space}(?!{space})(?=(.?))", re.DOTALL)
    inside = (token for token in tokens if space in token[1:])
    return {(match[1], match[2]) for token in inside for match in spanning.finditer(token)}
