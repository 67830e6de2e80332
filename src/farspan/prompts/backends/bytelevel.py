"""Turning a byte-level byte-pair tokenizer.json into tiktoken's form, and proving the ids the same before using it."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import tiktoken
import tokenizers

from farspan.models.chat_template import ChatTemplate
from farspan.prompts.backends.bytepair import BytePairTokenizer, BytePairVocabulary
from farspan.prompts.backends.open_file import open_tokenizer
from farspan.prompts.backends.samples import diverse_texts
from farspan.prompts.backends.splitting import keeps_matches, steps
from farspan.prompts.cache import cache_folder, publish_folder
from farspan.prompts.cuts import GPT2_PATTERN

# Part of the key of cached conversions: raise it whenever the conversion or the check changes.
_CONVERSION_VERSION = 2


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result of a conversion: the vocabulary, or None, and the reason."""

    vocabulary: BytePairVocabulary | None
    reason: str


class _NotConvertibleError(Exception):
    """The tokenizer is not byte-level byte-pair encoding as tiktoken does it; the text says why."""


def load_byte_level(
    path: Path, read_recipe: Callable[[], Mapping[str, Any]], fingerprint: str, template: ChatTemplate | None
) -> BytePairTokenizer | str:
    """Return the tokenizer run by tiktoken, or why it cannot be.

    The conversion and the outcome of its check are kept in the cache folder.

    Args:
        path: The tokenizer.json.
        read_recipe: Parses it; called when the outcome is not in the cache.
        fingerprint: A hash of its content.
        template: The folder's chat template.
    """
    versions = f"{_CONVERSION_VERSION} {tiktoken.__version__} {tokenizers.__version__}"
    key = blake2b(f"{versions} {fingerprint}".encode(), digest_size=16).hexdigest()
    folder = cache_folder() / "tokenizers" / key
    outcome = _load_outcome(folder)
    if outcome is None:
        outcome = _convert_and_check(path, read_recipe(), fingerprint)
        kept = outcome
        # The cache saves time; where it cannot be written, the next run converts again.
        with contextlib.suppress(OSError):
            publish_folder(folder, lambda draft: _save_outcome(draft, kept))
    if outcome.vocabulary is None:
        return outcome.reason
    return BytePairTokenizer(
        outcome.vocabulary,
        name=str(path),
        reason=outcome.reason,
        fingerprint=fingerprint,
        template=template,
    )


def _convert_and_check(path: Path, recipe: Mapping[str, Any], fingerprint: str) -> _Outcome:
    # Opening a large tokenizer takes seconds, most of them without the interpreter's lock.
    with ThreadPoolExecutor(1) as thread:
        opened = thread.submit(open_tokenizer, path)
        try:
            pattern = _pattern(recipe)
            composed = _composed(recipe)
            ranks, ids = _ranks(recipe)
        except _NotConvertibleError as reason:
            return _Outcome(None, f"tiktoken cannot do it: {reason}")
        reference = opened.result()
    bare = reference.encode("a", add_special_tokens=False).ids
    framed = reference.encode("a", add_special_tokens=True).ids
    middle = framed.index(bare[0]) if len(bare) == 1 and bare[0] in framed else -1
    if middle < 0:
        return _Outcome(None, "tiktoken cannot do it: what goes before and after a text cannot be told")
    vocabulary = BytePairVocabulary(
        pattern=pattern,
        ranks=ranks,
        ids=ids,
        specials={token["content"]: token["id"] for token in recipe.get("added_tokens") or ()},
        before=tuple(framed[:middle]),
        after=tuple(framed[middle + 1 :]),
        composed=composed,
    )
    candidate = BytePairTokenizer(
        vocabulary, name=str(path), reason="being checked", fingerprint=fingerprint, template=None
    )
    for text in diverse_texts():
        clean = candidate.clean(text)
        if reference.encode(clean, add_special_tokens=False).ids != candidate.encode_ordinary(clean).tolist():
            return _Outcome(None, "tiktoken gives other ids than tokenizers on diverse text")
    characters = sum(map(len, diverse_texts()))
    return _Outcome(
        vocabulary, f"tiktoken gives the same ids as tokenizers on {characters:,} characters of diverse text"
    )


def _pattern(recipe: Mapping[str, Any]) -> str:
    splitters = list(steps(recipe.get("pre_tokenizer"), "pretokenizers"))
    kinds = [step["type"] for step in splitters]
    if kinds == ["ByteLevel"] and splitters[0].get("use_regex", True):
        pattern = GPT2_PATTERN
    elif kinds == ["Split", "ByteLevel"] and not splitters[1].get("use_regex", True):
        split = splitters[0]
        if "Regex" not in split["pattern"] or not keeps_matches(split):
            raise _NotConvertibleError("its pre-tokenizer does not split by one regular expression")
        pattern = split["pattern"]["Regex"]
    else:
        raise _NotConvertibleError(f"its pre-tokenizer is {' then '.join(kinds) or 'none'}")
    if splitters[-1].get("add_prefix_space"):
        raise _NotConvertibleError("it puts a space before each text")
    return str(pattern)


def _composed(recipe: Mapping[str, Any]) -> bool:
    kinds = [step["type"] for step in steps(recipe.get("normalizer"), "normalizers")]
    if kinds not in ([], ["NFC"]):
        raise _NotConvertibleError(f"its normalizer is {' then '.join(kinds)}")
    return bool(kinds)


def _ranks(recipe: Mapping[str, Any]) -> tuple[dict[bytes, int], np.ndarray[Any, np.dtype[np.int32]]]:
    """Return each token's merge rank, and the token id of each rank.

    Ranks are the order of the merges, which need not be the order of the ids. Tokens that no merge makes come last;
    they are only ever found whole.
    """
    model = recipe["model"]
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise _NotConvertibleError(f"its model is {model.get('type')}")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise _NotConvertibleError(f"its model sets {option}")
    alphabet = _alphabet()
    vocabulary: dict[str, int] = model["vocab"]
    added = {token["content"] for token in recipe.get("added_tokens") or ()}
    words = [word for word in vocabulary if word not in added]
    if not set().union(*words) <= alphabet.keys() <= vocabulary.keys():
        raise _NotConvertibleError("its vocabulary is not byte-level")
    # Every character stands for one byte; as Latin-1, characters and bytes are the same numbers.
    to_bytes = str.maketrans({character: chr(byte) for character, byte in alphabet.items()})
    merged = ["".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    whole = words if model.get("ignore_merges") else []
    try:
        ids = {word: vocabulary[word] for word in [*sorted(alphabet), *merged, *whole]}
    except KeyError as error:
        raise _NotConvertibleError("a merge makes a token it does not have") from error
    ranks = {word.translate(to_bytes).encode("latin-1"): rank for rank, word in enumerate(ids)}
    return ranks, np.fromiter(ids.values(), np.int32, len(ids))


@cache
def _alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet: the character that stands for each byte (`gpt-2 encoder.py: bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}


def _save_outcome(folder: Path, outcome: _Outcome) -> None:
    (folder / "reason").write_text(outcome.reason, "utf-8")
    vocabulary = outcome.vocabulary
    if vocabulary is None:
        return
    assert vocabulary.ids is not None
    rest = {
        "pattern": vocabulary.pattern,
        "specials": vocabulary.specials,
        "before": vocabulary.before,
        "after": vocabulary.after,
        "composed": vocabulary.composed,
    }
    np.savez(
        folder / "vocabulary.npz",
        tokens=np.frombuffer(b"".join(vocabulary.ranks), np.uint8),
        lengths=np.fromiter(map(len, vocabulary.ranks), np.int32, len(vocabulary.ranks)),
        ids=vocabulary.ids,
        rest=np.frombuffer(orjson.dumps(rest), np.uint8),
    )


def _load_outcome(folder: Path) -> _Outcome | None:
    """Return a saved outcome; None when there is none, or it is damaged."""
    try:
        reason = (folder / "reason").read_text("utf-8")
        if not (folder / "vocabulary.npz").is_file():
            return _Outcome(None, reason)
        with np.load(folder / "vocabulary.npz") as saved:
            tokens, lengths, ids = saved["tokens"].tobytes(), saved["lengths"], saved["ids"]
            rest = orjson.loads(saved["rest"].tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends[:-1]]
    vocabulary = BytePairVocabulary(
        pattern=rest["pattern"],
        ranks={tokens[start:end]: i for i, (start, end) in enumerate(zip(starts, ends, strict=True))},
        ids=ids,
        specials=rest["specials"],
        before=tuple(rest["before"]),
        after=tuple(rest["after"]),
        composed=rest["composed"],
    )
    return _Outcome(vocabulary, reason)
