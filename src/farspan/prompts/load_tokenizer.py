"""From a folder, a file or a server's URL to a Tokenizer."""

from __future__ import annotations

import re
from pathlib import Path

from farspan.errors import InputError, NotFoundError
from farspan.models import catalog
from farspan.models.hub import is_hub_id
from farspan.models.hub_cache import resolve_folder
from farspan.prompts.hub_tokenizer import TOKENIZER_FILES, find_hub_tokenizer
from farspan.prompts.tokenizer import Tokenizer


def load_tokenizer(source: str | Path, *, api_key: str | None = None) -> Tokenizer:
    """Load a tokenizer.

    Args:
        source: A Hugging Face folder, also as the cache names it (models--owner--name), a hub id such as owner/name, a
            name of `farspan models`, a tokenizer.json, a tokenizer.model in tiktoken's format, or the URL of a
            server that has /tokenize.
        api_key: Sent to that server as a bearer token.

    Raises:
        InputError: The source is none of these, or the tokenizer cannot be reproduced exactly.
    """
    text = str(source)
    if re.match(r"https?://", text):
        from farspan.prompts.backends.remote import RemoteTokenizer

        return RemoteTokenizer(text, api_key=api_key)
    path = resolve_folder(Path(source).expanduser())
    if not path.exists():
        entry = catalog.find(text)
        hub_id = entry.hub_id if entry is not None else text
        path = find_hub_tokenizer(hub_id) if is_hub_id(hub_id) else path
    if not path.exists():
        raise NotFoundError(
            f"{text} does not exist",
            "give a Hugging Face folder, a hub id, a catalog name, a tokenizer.json, a tokenizer.model or a URL",
        )
    file = _tokenizer_file(path)
    if file.suffix == ".json":
        from farspan.prompts.backends.huggingface import load_tokenizer_json

        return load_tokenizer_json(file)
    from farspan.prompts.backends.llama4 import load_tokenizer_model

    return load_tokenizer_model(file)


def _tokenizer_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix not in {".json", ".model"}:
            raise InputError(f"{path} is not a tokenizer", "give a tokenizer.json or a tokenizer.model")
        return path
    for name in TOKENIZER_FILES:
        if (path / name).is_file():
            return path / name
    raise NotFoundError(
        f"{path} has neither tokenizer.json nor tokenizer.model",
        "give the folder of the model that is served",
    )
