"""Reading a tokenizer.json for the reason why counts add up at cuts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from farspan.prompts.cuts import NARROW_PATTERNS, PROVEN_PATTERNS, Proof, spanned_pairs

# Each changes a text character by character (or within one base character and its marks), so that what it makes of
# two parts joined at a cut is what it makes of each, joined.
_LOCAL_NORMALIZERS = {
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "StripAccents",
    "BertNormalizer",
    "Nmt",
    "Prepend",
}

# These may turn or strip the character before a cut to a space, which only a pre-tokenizer keeps apart from the cut's.
_SPACING_NORMALIZERS = {"StripAccents", "BertNormalizer", "Nmt"}

_WHITE_SPACE_SPLITTERS = {"WhitespaceSplit", "Whitespace", "BertPreTokenizer"}

# How vocabularies write a space.
_SPACES = ("▁", "Ġ", " ")

# Tokens that span cuts are put up with when they are few, and hold markup around their space: no prose is changed.
_MARKUP = frozenset("<>{}/|=*#&%$@^~\\")
_MOST_PAIRS = 16


@dataclass(frozen=True, slots=True)
class Additivity:
    """The proof that a tokenizer is additive at cuts, and the characters that must not stand around one.

    Attributes:
        proof: The argument that holds.
        apart: Pairs of characters between which a single space is no cut for this tokenizer.
    """

    proof: Proof
    apart: tuple[tuple[str, str], ...] = ()


def steps(recipe: Mapping[str, Any] | None, key: str) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a normalizer or pre-tokenizer, nested sequences flattened.

    Args:
        recipe: The step as tokenizer.json has it; None for none.
        key: What a sequence calls its list: `normalizers` or `pretokenizers`.
    """
    if recipe is None:
        return
    if recipe["type"] == "Sequence":
        for step in recipe[key]:
            yield from steps(step, key)
    else:
        yield recipe


def additivity_of(recipe: Mapping[str, Any]) -> Additivity:
    """Return why a tokenizer.json is additive at cuts; CHECKED when no reason is known."""
    normalizers = list(steps(recipe.get("normalizer"), "normalizers"))
    if not all(step["type"] in _LOCAL_NORMALIZERS or _writes_spaces(step) for step in normalizers):
        return Additivity(Proof.CHECKED)
    # Once spaces are written otherwise, nothing splits at them any more.
    spaces_are_left = not any(_writes_spaces(step) for step in normalizers)
    for step in steps(recipe.get("pre_tokenizer"), "pretokenizers"):
        proof = _splits_at_cuts(step) if spaces_are_left else None
        if proof is not None:
            # Whatever comes next works on pieces that lie on one side of the cut.
            return Additivity(proof)
        if not _splits_nothing_at_cuts(step, spaces_are_left=spaces_are_left):
            return Additivity(Proof.CHECKED)
        spaces_are_left = spaces_are_left and step["type"] not in {"Metaspace", "ByteLevel"}
    if not _SPACING_NORMALIZERS.isdisjoint(step["type"] for step in normalizers):
        return Additivity(Proof.CHECKED)
    return _by_vocabulary(recipe["model"].get("vocab", {}))


def _splits_at_cuts(step: Mapping[str, Any]) -> Proof | None:
    """Return why a pre-tokenizer always splits at a cut, in the same way whatever is around it; None if it may not."""
    kind = step["type"]
    if kind in _WHITE_SPACE_SPLITTERS or (kind == "Metaspace" and step.get("split", True)):
        return Proof.SPLIT
    if kind == "ByteLevel" and step.get("use_regex", True):
        return Proof.PATTERN
    if kind == "Split" and step["pattern"].get("Regex") in PROVEN_PATTERNS and keeps_matches(step):
        return Proof.PATTERN
    return None


def keeps_matches(split: Mapping[str, Any]) -> bool:
    """Return whether a Split makes each match a piece, as tiktoken does.

    `Removed` and inverted says the same as `Isolated` for the patterns in use: nothing of a text is left unmatched.
    """
    return (split["behavior"], bool(split.get("invert"))) in {("Isolated", False), ("Removed", True)}


def _splits_nothing_at_cuts(step: Mapping[str, Any], *, spaces_are_left: bool) -> bool:
    """Return whether a pre-tokenizer leaves cuts alone: it neither splits there nor lets one side change the other."""
    kind = step["type"]
    if kind == "Split":
        narrow = step["pattern"].get("Regex") in NARROW_PATTERNS and step["behavior"] == "Isolated"
        return narrow or (step["pattern"] == {"String": " "} and not spaces_are_left)
    if kind == "Punctuation":
        return bool(step.get("behavior", "Isolated") == "Isolated")
    return kind in {"Digits", "Metaspace", "ByteLevel"}


def _by_vocabulary(vocabulary: Mapping[str, int] | list[list[Any]]) -> Additivity:
    tokens = [entry[0] if isinstance(entry, list) else entry for entry in vocabulary]
    pairs = set().union(*(spanned_pairs(tokens, space) for space in _SPACES))
    # A space without a token of its own may be fused with unknown characters beside it.
    known = not set(_SPACES).isdisjoint(tokens)
    markup = all(before in _MARKUP and after in _MARKUP for before, after in pairs)
    if known and markup and len(pairs) <= _MOST_PAIRS:
        return Additivity(Proof.VOCABULARY, tuple(sorted(pairs)))
    return Additivity(Proof.CHECKED)


def _writes_spaces(step: Mapping[str, Any]) -> bool:
    """Return whether a normalizer writes each space as another character."""
    return step["type"] == "ByteLevel" or bool(
        step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"].strip()
    )
