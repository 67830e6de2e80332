"""Which prefix tree a server gets, and that the log says why. No SGLang is needed."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from types import SimpleNamespace as Values
from typing import Any

import pytest

from farspan.errors import InputError
from farspan.integrations.sglang.prefix_tree import choose_cache


def context(**changes: Any) -> Any:
    options = {name: values[0] for name, (values, _) in choose_cache._OPTIONS.items()}
    options.update({name: changes.pop(name) for name in list(changes) if name in options})
    params = Values(
        disable=False,
        is_eagle=False,
        enable_kv_cache_events=False,
        sliding_window_size=8192,
        page_size=1,
        swa_gates_prefix_match=True,
        decoder_swa_bounded_replay=None,
        token_to_kv_pool_allocator=None,
    )
    plain = {
        "server_args": Values(**options),
        "params": params,
        "disable_radix_cache": False,
        "is_hybrid_ssm": False,
        "is_hybrid_swa": True,
        "full_tokens_per_layer": 100,
        "enable_hierarchical_cache": False,
        "tp_worker": Values(model_runner=Values(prefill_aware_swa=changes.pop("aware", False))),
    }
    for name in list(changes):
        if hasattr(params, name):
            setattr(params, name, changes.pop(name))
    return Values(**(plain | changes))


def build(version: str, given: Any) -> Any:
    return choose_cache.build_cache(version, given, given.server_args)


def why(version: str, given: Any) -> str | None:
    return choose_cache.why_sglangs(version, given, given.server_args)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Stand-ins for what is asked of SGLang: its settings, and its own tree."""
    settings = {"cpp": False}
    environ, registry = ModuleType("sglang.srt.environ"), ModuleType("sglang.srt.mem_cache.registry")
    flag = Values(get=lambda: settings["cpp"])
    environ.envs = Values(SGLANG_EXPERIMENTAL_CPP_RADIX_TREE=flag)  # type: ignore[attr-defined]
    registry.default_radix_cache_factory = lambda context: "SGLang's"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, environ.__name__, environ)
    monkeypatch.setitem(sys.modules, registry.__name__, registry)
    monkeypatch.delenv(choose_cache.TREE_VARIABLE, raising=False)
    return settings


def test_farspans_is_the_default(
    modules: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choose_cache, "cache_class", lambda methods: lambda params: "farspan's")
    with caplog.at_level(logging.INFO, "sglang.farspan"):
        assert build("0.5.16", context()) == "farspan's"
    assert "the prefix tree is farspan's, a window of 8,192 tokens, pages of 1 tokens" in caplog.text


def test_sglangs_is_one_variable_away(
    modules: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(choose_cache.TREE_VARIABLE, "sglang")
    with caplog.at_level(logging.INFO, "sglang.farspan"):
        assert build("0.5.16", context()) == "SGLang's"
    assert "the prefix tree is SGLang's own: FARSPAN_PREFIX_TREE=sglang" in caplog.text
    monkeypatch.setenv(choose_cache.TREE_VARIABLE, "stock")
    with pytest.raises(InputError, match="FARSPAN_PREFIX_TREE is 'stock'; set it to farspan or sglang"):
        build("0.5.16", context())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"disable_radix_cache": True}, "--disable-radix-cache"),
        ({"is_hybrid_ssm": True}, "recurrent state"),
        ({"full_tokens_per_layer": 0}, "every layer of the model has a window"),
        ({"radix_eviction_policy": "lfu"}, "--radix-eviction-policy lfu"),
        ({"schedule_policy": "dfs-weight"}, "--schedule-policy dfs-weight"),
        ({"enable_streaming_session": True}, "--enable-streaming-session True"),
        ({"enable_lmcache": True}, "--enable-lmcache"),
        ({"enable_hierarchical_cache": True}, "--enable-hierarchical-cache"),
        ({"is_eagle": True}, "pairs of tokens"),
        ({"enable_kv_cache_events": True}, "no events"),
        ({"swa_gates_prefix_match": False}, "not the tree's"),
        ({"aware": True}, "what window layers keep of prompts"),
    ],
)
def test_what_it_does_not_do_gets_sglangs(modules: Any, changes: dict[str, Any], said: str) -> None:
    reason = why("0.5.16", context(**changes))
    assert reason is not None
    assert said in reason
    assert why("0.5.16", context()) is None


def test_what_holds_counts_and_not_what_was_given(modules: Any) -> None:
    given = context()
    decided = Values(**vars(given.server_args) | {"radix_eviction_policy": "priority"})
    reason = choose_cache.why_sglangs("0.5.23", given, decided)
    assert reason == "--radix-eviction-policy priority: only the order of last use is known to farspan's"


def test_another_tree_that_is_asked_for_is_used(modules: dict[str, bool]) -> None:
    modules["cpp"] = True
    assert why("0.5.16", context()) == "SGLANG_EXPERIMENTAL_CPP_RADIX_TREE"
    assert why("0.6", context()) == "farspan has none for SGLang 0.6"
