"""How much of every prompt is shared with others, as the user says it: a part of it, or a number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

from farspan.errors import InputError
from farspan.sizes import parse_tokens

_HOW = "write a part such as 90%, or tokens such as 100k"


@dataclass(frozen=True, slots=True)
class SharedLength:
    """The length of a shared prefix.

    Args:
        text: As the user wrote it.
        part: Of the prompt, 0 to 1; None where a number of tokens is given.
        tokens: That number.
    """

    text: str
    part: float | None = None
    tokens: int = 0

    def of(self, context: int) -> int:
        """Return the tokens shared by prompts of a length.

        Raises:
            InputError: No token is, or none is left that is not.
        """
        tokens = self.tokens if self.part is None else round(self.part * context)
        if not 0 < tokens < context:
            raise InputError(
                f"--shared-prefix {self.text} is {tokens:,} of {context:,} tokens",
                "share some tokens of every prompt, and leave some of its own",
            )
        return tokens


def parse_shared_length(text: str) -> SharedLength:
    """Read how much is shared: `90%`, or `100k` tokens.

    Raises:
        InputError: It is neither.
    """
    text = text.strip()
    if not text.endswith("%"):
        return SharedLength(text, tokens=parse_tokens(text))
    try:
        percent = float(text[:-1])
    except ValueError:
        percent = 0.0
    if not 0 < percent < 100:
        raise InputError(f"{text!r} is not a part of a prompt", _HOW)
    return SharedLength(text, part=percent / 100)
