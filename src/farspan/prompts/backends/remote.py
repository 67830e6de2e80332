"""A server's own tokenizer, through its /tokenize endpoint (vLLM, SGLang, the built-in engine)."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

import orjson

from farspan.errors import NetworkError
from farspan.prompts.backends.samples import diverse_texts
from farspan.prompts.cuts import Proof
from farspan.prompts.tokenizer import TokenIds, Tokenizer, as_ids

_TIMEOUT_S = 600
_GUARD = "a"


class RemoteTokenizer(Tokenizer):
    """A tokenizer whose ids come from the server's own /tokenize.

    Args:
        url: The server's base URL, with or without /v1.
        model: The served model's name; the first of /v1/models when None.
        api_key: Sent as a bearer token, to this server alone.

    Raises:
        NetworkError: The server does not answer, or has no /tokenize.
    """

    backend = "server"
    # What the server does to a text is not visible, so every prompt is counted by it as a whole.
    proof = Proof.CHECKED

    def __init__(self, url: str, model: str | None = None, *, api_key: str | None = None) -> None:
        self._base = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json", "Connection": "close"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self.name = self._base
        self.reason = "the server itself encodes"
        self._model = model or self._first_model()
        self._guard = len(self._tokenize({"prompt": _GUARD, "add_special_tokens": False}))
        sample = "\n".join(text for text in diverse_texts()[:20] if text.isprintable())
        ids = self._tokenize({"prompt": sample, "add_special_tokens": False})
        self.fingerprint = blake2b(f"{self._model} {ids.tolist()}".encode(), digest_size=16).hexdigest()

    def encode_request(self, text: str, *, chat: bool) -> TokenIds:
        """Return what the server counts for a request."""
        if chat:
            # A generation prompt is what servers add unless told otherwise, as they do for a chat.
            return self._tokenize({"messages": [{"role": "user", "content": text}]})
        return self._tokenize({"prompt": text, "add_special_tokens": True})

    def encode_pieces(self, pieces: Sequence[str]) -> list[TokenIds]:
        """Return the ids of each piece, encoded behind a guard word whose ids are dropped."""
        return [
            self._tokenize({"prompt": _GUARD + piece, "add_special_tokens": False})[self._guard :]
            for piece in pieces
        ]

    def _first_model(self) -> str:
        answer = self._ask("/v1/models", None)
        try:
            return str(answer["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise NetworkError(
                f"{self._base}/v1/models names no model", "give the URL of an OpenAI-compatible server"
            ) from error

    def _tokenize(self, request: dict[str, Any]) -> TokenIds:
        answer = self._ask("/tokenize", {"model": self._model, **request})
        tokens = answer.get("tokens") if isinstance(answer, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens[:1]):
            raise NetworkError(
                f"{self._base}/tokenize does not answer with tokens",
                "give the folder of the model that is served",
            )
        return as_ids(tokens)

    def _ask(self, path: str, body: dict[str, Any] | None) -> Any:
        # No redirects and no proxies: the key goes to this address and nowhere else.
        address = urlsplit(self._base)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=_TIMEOUT_S)
        try:
            connection.request(
                "GET" if body is None else "POST",
                address.path + path,
                body=None if body is None else orjson.dumps(body),
                headers=self._headers,
            )
            response = connection.getresponse()
            content = response.read()
            if response.status == 200:
                return orjson.loads(content)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise NetworkError(
                f"{self._base}{path} does not answer ({' '.join(str(error).split()) or type(error).__name__})",
                "start the server, or correct the URL",
            ) from error
        finally:
            connection.close()
        said = content[:300].decode("utf-8", "replace").strip()
        raise NetworkError(
            f"{self._base}{path} answers {response.status} {said}",
            "set OPENAI_API_KEY to the server's key"
            if response.status in (401, 403)
            else "give the folder of the model that is served",
        )
