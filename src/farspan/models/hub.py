"""Getting one config.json from the Hugging Face hub, or from its cache on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from farspan.errors import InputError
from farspan.models.config_json import MAX_FILE_BYTES, parse_config_json, read_config_json

_TIMEOUT_S = 10
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


def is_hub_id(text: str) -> bool:
    """Whether the text looks like `owner/name`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None


def _cache() -> Path:
    """Where huggingface_hub keeps its snapshots (HF_HUB_CACHE, else HF_HOME/hub)."""
    given = os.environ.get("HF_HUB_CACHE")
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(given) if given else home / "hub"


def _cached(model: str) -> Path | None:
    folder = _cache() / f"models--{model.replace('/', '--')}"
    main = folder / "refs" / "main"
    if not main.is_file():
        return None
    file = folder / "snapshots" / main.read_text(encoding="ascii").strip() / "config.json"
    return file if file.is_file() else None


def fetch_config(model: str, *, allow_network: bool = True) -> dict[str, object]:
    """Return a hub model's config.json, from the local cache when it is there.

    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured.

    Raises:
        InputError: It is not cached and cannot be fetched, or is not JSON.
    """
    cached = _cached(model)
    if cached is not None:
        return read_config_json(cached)
    if not allow_network or os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        raise InputError(
            f"{model} is not in the catalog nor in the Hugging Face cache, and the network is off",
            "download its config.json and give the file",
        )
    return _download(model)


def _download(model: str) -> dict[str, object]:
    import urllib.error
    import urllib.request

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/{model}/resolve/main/config.json"
    request = urllib.request.Request(url)
    token = os.environ.get("HF_TOKEN")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return parse_config_json(answer.read(MAX_FILE_BYTES + 1), url)
    except urllib.error.HTTPError as error:
        fix = "set HF_TOKEN" if error.code in (401, 403) else "check the name"
        raise InputError(
            f"{url} answered {error.code}", f"{fix}, or give the config.json as a file"
        ) from None
    except OSError as error:
        raise InputError(f"{url} cannot be reached ({error})", "give the config.json as a file") from None
