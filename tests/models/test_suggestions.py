"""What is offered for a model's name that is not quite one."""

from __future__ import annotations

import pytest

from farspan.models import catalog


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("scout", "llama-4-scout"),
        ("llama4", "llama-4-scout"),
        ("llama-4-scot", "llama-4-scout"),
        ("Llama4Scout", "llama-4-scout"),
        ("qwen-3-32b", "qwen3-32b"),
        ("gptoss", "gpt-oss-120b"),
        ("kimi", "kimi-k2.5"),
    ],
)
def test_a_near_name_is_offered(text: str, offered: str) -> None:
    assert offered in catalog.suggestions(text)


def test_nothing_is_offered_for_nonsense() -> None:
    assert catalog.suggestions("zzzzzzzz") == []
