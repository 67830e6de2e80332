"""Secrets in plain sight among the words for an engine's command line, where every user of the machine reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from farspan.errors import InputError

_KEY_FLAGS = ("--api-key", "--admin-api-key")
_HUB_FLAGS = ("--hf-token",)
# `--api-k` is `--api-key` to argparse.
_SHORTEST_ABBREVIATION = 5
_SECRET_NAME = re.compile(
    r"(^|[-._])(api[-_.]?key|(access|private|secret)[-_.]?key|authorization|(hf|hub|auth|access|bearer|api|admin)[-_.]token|password|passwd|secret|credentials?)$",
    re.IGNORECASE,
)
# Names are read from their first character alone, so that a long word is read once.
_ASSIGNED = re.compile(r"(?<![\w.-])([\w.-]+)[\"']?\s*[:=]")
_SECRET_VARIABLE = re.compile(
    r"(^|_)((API|ACCESS|PRIVATE|SECRET)_?KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?)$"
)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_BEARER = re.compile(r"\bbearer\s+\S", re.IGNORECASE)
_URL_WITH_LOGIN = re.compile(r"(?<![a-z0-9+.-])[a-z0-9+.-]+://[^/\s@]+@", re.IGNORECASE)


def check_no_secret(words: Sequence[str]) -> None:
    """Refuse words that hold a secret, or that name one whose value follows.

    The error never repeats a value.

    Raises:
        InputError: A flag for a secret, however it is written; a token, or a URL with a login, in a value.
    """
    for word in words:
        if word.startswith("-"):
            _check_flag("--" + re.split(r"[=\s]", word, maxsplit=1)[0].lstrip("-").replace("_", "-").lower())
        if _HUB_TOKEN.search(word):
            raise InputError("a Hugging Face token stands on the command line", _FIX_HUB)
        if _URL_WITH_LOGIN.search(word) or _BEARER.search(word):
            raise InputError("a login stands on the command line, in a URL or a header", _FIX_VALUE)
        for written in _ASSIGNED.findall(word):
            name = written.lstrip("0123456789_.-")
            if _SECRET_NAME.search(name) or _SECRET_VARIABLE.search(name):
                raise InputError(f"{name[:40]} on a command line shows its value to every user", _FIX_VALUE)


_FIX_KEY = "put the key into an environment variable and name that with --api-key-env"
_FIX_HUB = "export HF_TOKEN, farspan passes it on by name"
_FIX_VALUE = "keep it in an environment variable or a file that the engine reads by itself"


def _check_flag(name: str) -> None:
    for flags, fix in ((_KEY_FLAGS, _FIX_KEY), (_HUB_FLAGS, _FIX_HUB)):
        if any(flag.startswith(name) and len(name) >= _SHORTEST_ABBREVIATION for flag in flags):
            raise InputError(f"{name} on a command line shows its value to every user of the machine", fix)
    if _SECRET_NAME.search(name):
        raise InputError(
            f"{name[:40]} on a command line shows its value to every user of the machine", _FIX_VALUE
        )
