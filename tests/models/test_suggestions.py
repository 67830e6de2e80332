"""What is offered for a model's name that is not quite one."""

from __future__ import annotations

import pytest

from farspan.models import catalog
from farspan.verbs.list_known import list_models


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


def test_only_models_that_an_engine_plans_are_offered() -> None:
    planned = list_models().models
    assert catalog.offered_names() == tuple(
        sorted({*(model.name for model in planned), *(short for model in planned for short in model.aliases)})
    )
    assert "deepseek-v3" in catalog.suggestions("deepseek")
    assert catalog.suggestions("deepseek-v4-flsh")[0] == "deepseek-v4-flash"
