"""The environment of the programs that help to start a server: everything but the secrets that only the server needs.

What the docker and kubectl programs need to speak to their registry or cloud stays.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

SECRET_VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "FARSPAN_API_KEY",
    "VLLM_API_KEY",
    "SGLANG_API_KEY",
    "OPENAI_API_KEY",
)


def helper_environment(
    added: Mapping[str, str] | None = None, withheld: Collection[str] = SECRET_VARIABLES
) -> dict[str, str]:
    """Return this program's environment for another.

    Args:
        added: Variables that it gets all the same.
        withheld: Names of variables that it has no need of.
    """
    own = {name: value for name, value in os.environ.items() if name not in withheld}
    return {**own, **(added or {})}
