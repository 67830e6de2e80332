"""Getting one config.json from the Hugging Face hub, or from its cache on this machine."""

from __future__ import annotations

import os
import re
from typing import Any

from farspan.errors import NetworkError, NotFoundError
from farspan.models.config_json import MAX_FILE_BYTES, parse_config_json
from farspan.models.hub_cache import find_misplaced, find_snapshot, hub_cache
from farspan.models.published_files import PublishedFiles, complete, read_published

_TIMEOUT_S = 10
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


def is_hub_id(text: str) -> bool:
    """Whether the text looks like `owner/name`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None


def fetch_published(model: str, *, allow_network: bool = True) -> PublishedFiles:
    """Return a hub model's config.json with what stands beside it, from the local cache when it is there.

    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured. Over the network only config.json is asked for, and
    hf_quant_config.json where it names no quantization.

    Raises:
        NotFoundError: It is not cached and the network is off, or the hub has no such model.
        NetworkError: The hub does not answer.
        InputError: The file is not a JSON object.
    """
    snapshot = find_snapshot(hub_cache(), model) or find_misplaced(os.environ, model)
    if snapshot is not None and (snapshot / "config.json").is_file():
        return read_published(snapshot / "config.json")
    if not allow_network or os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        raise NotFoundError(
            f"{model} is not in the catalog nor in the Hugging Face cache, and the network is off",
            "download its config.json and give the file",
        )
    content, url = _download(model, "config.json")

    def beside(name: str) -> bytes | None:
        try:
            return _download(model, name)[0]
        except (NotFoundError, NetworkError):
            return None

    return complete(parse_config_json(content, url), model, beside)


def _download(model: str, file: str) -> tuple[bytes, str]:
    import urllib.error
    import urllib.request
    from urllib.parse import urlsplit

    class KeepTokenHome(urllib.request.HTTPRedirectHandler):
        """Follows a redirect to another host without the token."""

        def redirect_request(self, *told: Any) -> urllib.request.Request | None:
            following = super().redirect_request(*told)
            if following is not None and urlsplit(following.full_url)[:2] != urlsplit(request.full_url)[:2]:
                following.remove_header("Authorization")
            return following

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/{model}/resolve/main/{file}"
    request = urllib.request.Request(url)
    url = re.sub(r"//[^/@]*@", "//", url)  # for errors: a mirror's address may hold a login
    token = os.environ.get("HF_TOKEN")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.build_opener(KeepTokenHome).open(request, timeout=_TIMEOUT_S) as answer:
            return answer.read(MAX_FILE_BYTES + 1), url
    except urllib.error.HTTPError as error:
        kind, fix = {
            401: (NotFoundError, "set HF_TOKEN"),
            403: (NotFoundError, "set HF_TOKEN"),
            404: (NotFoundError, "check the name"),
        }.get(error.code, (NetworkError, "try again"))
        raise kind(f"{url} answered {error.code}", f"{fix}, or give the config.json as a file") from None
    except OSError as error:
        raise NetworkError(f"{url} cannot be reached ({error})", "give the config.json as a file") from None
