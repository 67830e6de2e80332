"""Opening a tokenizer.json with the `tokenizers` library."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from farspan.errors import InputError


def open_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Open a tokenizer.json with truncation and padding off.

    Raises:
        InputError: The library cannot read it.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise InputError(
            f"{path} cannot be read by tokenizers {tokenizers.__version__} ({error})",
            "install a newer tokenizers",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
