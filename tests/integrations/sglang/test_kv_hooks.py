"""What the plug-in hooks of SGLang's KV cache, without SGLang."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from farspan.integrations.sglang import kv_hooks
from farspan.integrations.sglang.adapters import ADAPTERS
from farspan.integrations.sglang.kv_hooks import KVHooks


class Registry:
    """Notes what is hooked, as SGLang's `HookRegistry` is told."""

    def __init__(self) -> None:
        self.hooked: dict[str, tuple[str, str]] = {}

    def register(self, target: str, hook: Any, kind: str) -> None:
        self.hooked[target] = (hook.__name__, kind)


def hooked(version: str) -> dict[str, tuple[str, str]]:
    registry = Registry()
    kinds = SimpleNamespace(AROUND="around", BEFORE="before")
    KVHooks(ADAPTERS[version]).register(SimpleNamespace(HookRegistry=registry, HookType=kinds))
    return registry.hooked


@pytest.mark.parametrize("version", sorted(ADAPTERS))
def test_every_hook_that_is_written_is_hooked(version: str) -> None:
    """A hook that nothing calls goes unseen: SGLang does without, until memory is short."""
    written = {**vars(kv_hooks), **vars(KVHooks)}
    around = {
        name
        for name, value in written.items()
        if inspect.isfunction(value) and "original" in inspect.signature(value).parameters
    }
    before = {
        name for name, value in written.items() if name.startswith("_before") and inspect.isfunction(value)
    }
    assert len(around) > 5
    assert len(before) > 1
    names = {
        kind: {name for name, of in hooked(version).values() if of == kind} for kind in ("around", "before")
    }
    assert names == {"around": around, "before": before}


@pytest.mark.parametrize("version", sorted(ADAPTERS))
def test_every_hooked_function_has_its_shape_on_record(version: str) -> None:
    recorded = {place.replace(":", ".") for place in ADAPTERS[version].shapes}
    assert set(hooked(version)) <= recorded
