"""Reading a tokenizer.json for the reason why counts add up at cuts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from farspan.prompts.cuts import PROVEN_PATTERNS, Proof, no_token_spans_a_cut

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
    "ByteLevel",
}

# Pre-tokenizers that split by looking at single characters and never join across a split.
_LOCAL_SPLITTERS = {"Digits", "Punctuation", "CharDelimiterSplit", "UnicodeScripts"}
_WHITE_SPACE_SPLITTERS = {"WhitespaceSplit", "Whitespace", "BertPreTokenizer"}


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


def proof_of(recipe: Mapping[str, Any]) -> Proof:
    """Return why a tokenizer.json is additive at cuts; CHECKED when no reason is known."""
    if not all(_is_local_normalizer(step) for step in steps(recipe.get("normalizer"), "normalizers")):
        return Proof.CHECKED
    proof: Proof | None = None
    for step in steps(recipe.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] in _WHITE_SPACE_SPLITTERS:
            proof = proof or Proof.SPLIT
        elif step["type"] == "Metaspace":
            proof = proof or (Proof.SPLIT if step.get("split", True) else None)
        elif step["type"] == "ByteLevel":
            proof = proof or (Proof.PATTERN if step.get("use_regex", True) else None)
        elif step["type"] == "Split":
            if step["pattern"].get("Regex") in PROVEN_PATTERNS and not step.get("invert"):
                proof = proof or Proof.PATTERN
            elif step["pattern"].get("String") != " ":
                return Proof.CHECKED
        elif step["type"] not in _LOCAL_SPLITTERS:
            return Proof.CHECKED
    if proof is not None:
        return proof
    vocabulary = recipe["model"].get("vocab", {})
    tokens = [entry[0] if isinstance(entry, list) else entry for entry in vocabulary]
    spaces = ("▁", "Ġ", " ")
    if tokens and all(no_token_spans_a_cut(tokens, space) for space in spaces):
        return Proof.VOCABULARY
    return Proof.CHECKED


def _is_local_normalizer(step: Mapping[str, Any]) -> bool:
    if step["type"] in _LOCAL_NORMALIZERS or step["type"] == "Prepend":
        return True
    return bool(step["type"] == "Replace" and step["pattern"] == {"String": " "})
