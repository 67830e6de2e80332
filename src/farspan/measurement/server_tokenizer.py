"""The tokenizer of a server: as given, or found by what the server says it has loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from farspan.errors import FarspanError, NotFoundError
from farspan.measurement.http.target import ServerInfo, is_same_origin
from farspan.models.hub import is_hub_id
from farspan.models.hub_cache import find_snapshot, hub_cache
from farspan.prompts.load_tokenizer import load_tokenizer
from farspan.prompts.tokenizer import Tokenizer

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "original/tokenizer.model")
_FETCHED = (
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template*",
    "config.json",
    "original/tokenizer.model",
)
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


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


def find_hub_tokenizer(model: str) -> Path:
    """Return a folder of this machine with a hub model's tokenizer, fetched when the cache has none.

    Raises:
        NotFoundError: It is not in the cache, and the hub does not give it.
    """
    cached = find_snapshot(hub_cache(), model)
    if cached is not None and any((cached / name).is_file() for name in _TOKENIZER_FILES):
        return cached
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        raise NotFoundError(
            f"the Hugging Face cache has no tokenizer of {model}, and HF_HUB_OFFLINE is set",
            f"run: HF_HUB_OFFLINE=0 hf download {model} --include 'tokenizer*'",
        )
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(model, allow_patterns=list(_FETCHED)))
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise NotFoundError(
            f"the hub gives no tokenizer of {model} ({reason})",
            "set HF_TOKEN when the model is gated, or pass --tokenizer with a folder",
        ) from error
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise NotFoundError(
            f"{model} on the hub has no tokenizer farspan reads", "pass --tokenizer with a tokenizer.json"
        )
    return folder
