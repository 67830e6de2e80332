"""Diverse text, to compare two implementations of one tokenizer on."""

from __future__ import annotations

import random
from functools import cache

from farspan.prompts.generator import generate_text

_SENTENCES = (
    "It's they'll we've I'M YOU'RE 'Tis o'clock rock'n'roll don'T",
    "HTTPServer2_parse(x) -> camelCaseAndSNAKE_CASE; i += 1; // comment /* block */ a!=b && c||d",
    'def f(x: int) -> str:\n    return f"{x:>10}"\n\n\tif x:\r\n\t\tpass\r\n',
    "https://example.com/a/b?c=d&e=%20#f user@example.org C:\\dir\\file.txt ~/.cache/x",
    "0 1 12 123 1234 12345 1,234,567.89 3.14e-10 0xDEADBEEF 1_000 ½ ²³ Ⅻ ١٢٣ १२३",
    "Größe façade naïve Ærø Łódź İstanbul ŉ ǅ ﬁ e\u0301 a\u030a\u0323 Ω Å",
    "Съешь же ещё этих мягких французских булок. Ελληνικά γράμματα. Հայերեն.",
    "我能吞下玻璃而不伤身体。日本語のテキスト、カタカナとひらがな。한국어 문장입니다. ภาษาไทยไม่มีช่องว่าง",
    "العربية من اليمين إلى اليسار، עברית עם ניקוד שָׁלוֹם हिन्दी में लिखा हुआ বাংলা தமிழ்",
    "😀😃👩‍👩‍👧‍👦🏳️‍🌈 ❤️ ☎️ →⇒ ∑∫∂ ≤≥ … — – “quotes” ‘single’ «guillemets» ™®©",
    "  two  spaces   three    four\t\ttabs \n\n\n newlines \r\n\r\n \u00a0nbsp\u2003em\u3000ideographic \u2028line",
    "((((((....!!!!???;;;;::::----____====++++****////\\\\\\\\||||~~~~````^^^^<<<<>>>>",
    '{"key": [1, 2.5, null, true], "nested": {"a": "b\\n"}}\n<div class=\'x\'>&amp;</div>\n| a | b |\n|---|---|\n',
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
)

_RANGES = ((0x20, 0x7F), (0x09, 0x0E), (0xA0, 0x250), (0x370, 0x530), (0x5D0, 0x700), (0x900, 0xE80))
_WIDE_RANGES = ((0x1E00, 0x2100), (0x2190, 0x2400), (0x3000, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4))
_EMOJI = (0x1F300, 0x1FAFF)


@cache
def diverse_texts() -> tuple[str, ...]:
    """Return texts in many scripts, code, numbers, white space, random characters, and English."""
    choice = random.Random(20240)
    ranges = [*_RANGES, *_WIDE_RANGES, _EMOJI]
    mixed = []
    for length in range(1, 400):
        low, high = choice.choice(ranges)
        other = choice.choice(ranges)
        mixed.append(
            "".join(
                chr(choice.randrange(*(other if choice.random() < 0.3 else (low, high))))
                for _ in range(length)
            )
        )
    shuffled = [" ".join(choice.sample(_SENTENCES, 6)) for _ in range(60)]
    pairs = [first + second for first in _SENTENCES for second in _SENTENCES]
    return (*_SENTENCES, *pairs, *shuffled, *mixed, generate_text(100_000, 1).decode())
