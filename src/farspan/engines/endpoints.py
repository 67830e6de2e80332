"""Where a server is asked whether it lives, and what keeps that question cheap."""

from __future__ import annotations

from collections.abc import Mapping

# An environment variable each engine reads its API key from (SGLang reads none: see `sglang_start`).
KEY_VARIABLES = {"vllm": "VLLM_API_KEY", "sglang": "SGLANG_API_KEY", "builtin": "FARSPAN_API_KEY"}

# SGLang's /health generates a token and answers 503 when a step takes over 20 s, as every step of a long prefill
# does (sglang 0.5.6.post2 to 0.5.23 srt/entrypoints/http_server.py: health_generate).
_QUIET_HEALTH = {"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0"}


def health_environment(engine: str) -> Mapping[str, str]:
    """What makes the engine's /health answer at once, however long the prompt it works on."""
    return _QUIET_HEALTH if engine == "sglang" else {}


def live_path(engine: str, *, with_key: bool) -> str:
    """The path that answers 200 as long as the server lives, and never waits for a prefill.

    vLLM's /health looks at its engine process without asking it anything. SGLang's /ping answers from the HTTP
    process; with an API key it wants the key, which a probe cannot send, while /health does not
    (`add_api_key_middleware`), so /health is asked then.
    """
    return "/ping" if engine == "sglang" and not with_key else "/health"
