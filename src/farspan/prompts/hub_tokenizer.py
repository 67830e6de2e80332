"""A hub model's tokenizer: from the Hugging Face cache of this machine, or fetched from the hub, its files alone."""

from __future__ import annotations

import os
from pathlib import Path

from farspan.errors import NotFoundError
from farspan.models.hub_cache import find_snapshot, hub_cache

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "original/tokenizer.model")
_FETCHED = (
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template*",
    "config.json",
    "original/tokenizer.model",
)
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


def find_hub_tokenizer(model: str) -> Path:
    """Return a folder of this machine with a hub model's tokenizer, fetched when the cache has none.

    Raises:
        NotFoundError: It is not in the cache, and the hub does not give it.
    """
    cached = find_snapshot(hub_cache(), model)
    if cached is not None and any((cached / name).is_file() for name in TOKENIZER_FILES):
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
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise NotFoundError(
            f"{model} on the hub has no tokenizer farspan reads", "pass --tokenizer with a tokenizer.json"
        )
    return folder
