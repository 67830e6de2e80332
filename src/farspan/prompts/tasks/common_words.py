"""Common and frequent words, as in RULER (arXiv 2404.06654, tasks CWE and FWE), for any length in linear time."""

from __future__ import annotations

import random
from collections.abc import Iterator

from farspan.errors import InputError
from farspan.prompts.scoring import MatchKind, Scorer
from farspan.prompts.tasks.names import draw
from farspan.prompts.tasks.task import Task, TaskRequest
from farspan.prompts.wordlist import CommonCounts, WordCounts, ZipfCounts

_VOWELS = "aeiou"
_CONSONANTS = "bdfgklmnprstvz"

# Different words a prompt draws on; a longer prompt repeats them more often.
_WORDS = 20_000
_CODED_WORDS = 2_000

_MOST_ASKED = 100


def common_words(request: TaskRequest) -> Iterator[Task]:
    """A list of words of which some stand ten times as often as the others."""
    number = _number(request.count or 10)
    words = _invent(_WORDS, 3, request.choice)
    yield from _most_common(request, words, number, CommonCounts(tuple(words), common=number))


def frequent_words(request: TaskRequest) -> Iterator[Task]:
    """A list of words whose counts fall as 1 / rank^2."""
    number = _number(request.count or 3)
    words = _invent(_CODED_WORDS, 4, request.choice)
    yield from _most_common(request, words, number, ZipfCounts(tuple(words), frequent=number))


def _most_common(request: TaskRequest, words: list[str], number: int, counts: WordCounts) -> Iterator[Task]:
    question = (
        f"What are the {number} most common words of the list? "
        "Reply with the words alone, separated by commas."
    )
    lead = "" if request.chat else f"\n\nAnswer: The {number} most common words of the list are"
    yield Task(
        introduction=f"Below is a list of words. Remember the {number} that occur most often.\n\nList:",
        planted=(),
        closing=f" [End of the list]\n\nQuestion: {question}{lead}",
        scorer=Scorer(MatchKind.FRACTION, tuple(words[:number])),
        output_tokens=request.output_tokens or 8 + 6 * number,
        words=counts,
    )


def _number(count: int) -> int:
    if count > _MOST_ASKED:
        raise InputError(
            f"{count:,} most common words are too many to tell apart", f"ask for at most {_MOST_ASKED}"
        )
    return count


def _invent(count: int, syllables: int, choice: random.Random) -> list[str]:
    """Return different words of so many syllables of two letters."""
    pairs = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]
    words = []
    for number in draw(len(pairs) ** syllables, count, choice):
        word = ""
        for _ in range(syllables):
            number, syllable = divmod(number, len(pairs))
            word += pairs[syllable]
        words.append(word)
    return words
