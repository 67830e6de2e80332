"""The tokenizer of a server: as given, or found by what the server says it has loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from farspan.errors import FarspanError, NotFoundError
from farspan.measurement.http.target import ServerInfo, is_same_origin
from farspan.models.hub import is_hub_id
from farspan.prompts.hub_tokenizer import find_hub_tokenizer
from farspan.prompts.load_tokenizer import load_tokenizer
from farspan.prompts.tokenizer import Tokenizer


def load_server_tokenizer(
    server: ServerInfo, given: str | Path | None, *, api_key: str | None = None
) -> tuple[Tokenizer, str]:
    """Load the tokenizer a server counts with.

    Without one given: the folder the server names, when it is on this machine; else the hub id it names, from the
    cache of this machine or from the hub; else the server's own /tokenize.

    Args:
        server: What the server says of itself.
        given: A folder, a file, a hub id, or the URL of a server with /tokenize.
        api_key: The server's key; sent to no other one.

    Returns:
        The tokenizer, and where it is from, in words.

    Raises:
        NotFoundError: There is none; the message says what was tried.
        InputError: The one given cannot be used.
    """
    if given is not None:
        text = str(given)
        if not Path(text).expanduser().exists() and is_hub_id(text):
            folder = find_hub_tokenizer(text)
            return load_tokenizer(folder), f"{text} at {folder}"
        return load_tokenizer(given, api_key=api_key if is_same_origin(text, server.url) else None), text
    tried: list[str] = []
    for source in _list_sources(server, tried):
        try:
            return load_tokenizer(source, api_key=api_key), str(source)
        except FarspanError as error:
            tried.append(error.message)
    raise NotFoundError(
        f"the tokenizer of {server.model!r} is not known here ({'; '.join(tried)})",
        "pass --tokenizer with its folder, tokenizer.json, or hub id such as owner/name",
    )


def _list_sources(server: ServerInfo, tried: list[str]) -> Iterator[str | Path]:
    """Yield where the tokenizer may be, the surest first; note what is not there."""
    names = [name for name in dict.fromkeys((server.root, server.model)) if name]
    yield from (Path(name) for name in names if Path(name).is_dir())
    for name in names:
        if is_hub_id(name) and not Path(name).exists():
            try:
                yield find_hub_tokenizer(name)
            except FarspanError as error:
                tried.append(error.message)
    yield server.url
