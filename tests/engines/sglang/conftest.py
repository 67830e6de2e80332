"""Tests of two versions of SGLang run beside each other: each version's in one process (`pytest --dist loadgroup`)."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        callspec = getattr(item, "callspec", None)
        for value in callspec.params.values() if callspec is not None else ():
            if isinstance(value, str) and value.startswith("0.5."):
                item.add_marker(pytest.mark.xdist_group(f"sglang-{value}"))
