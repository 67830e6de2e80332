"""Text from outside, made safe to show to a person."""

from __future__ import annotations

import re

# Control characters (a terminal obeys them), line and paragraph separators, and the marks that turn the direction of
# writing around; and halves of characters, which no output takes. Tab and line feed stay.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    """Return the text with every character that does something other than show replaced by U+FFFD."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", str(text))
