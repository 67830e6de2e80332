"""What elastic KV pools are refused with, and the switch that leaves them to SGLang. No SGLang is needed."""

from __future__ import annotations

from types import SimpleNamespace as Values
from typing import Any

import pytest

from farspan.errors import InputError, UnsupportedError
from farspan.integrations.sglang import kv_hooks
from farspan.integrations.sglang.adapters import POOLS_VARIABLE, adapter_for


def configurator(
    hybrid: bool = True, architecture: str = "Llama4ForConditionalGeneration", **options: Any
) -> Any:
    arguments = {
        "radix_cache_backend": "farspan",
        "page_size": 1,
        "enable_mixed_chunk": False,
        "prefill_only_disable_kv_cache": False,
        "attention_backend": "fa3",
        "prefill_attention_backend": None,
        "decode_attention_backend": None,
    }
    return Values(
        server_args=Values(**arguments | options),
        model_config=Values(hf_config=Values(architectures=[architecture])),
        is_hybrid_swa=hybrid,
        is_draft_worker=False,
        post_capture_kv_active=False,
        page_size=options.get("page_size", 1),
    )


def check(given: Any, version: str = "0.5.16") -> None:
    kv_hooks._check_pools_possible(adapter_for(version), given, given.server_args)


def test_what_is_known_passes() -> None:
    check(configurator())
    check(configurator(hybrid=False, attention_backend="triton", page_size=64))
    check(configurator(hybrid=False, attention_backend="torch_native"))
    check(configurator(architecture="GptOssForCausalLM", attention_backend="triton"))
    check(configurator(enable_mixed_chunk=True))
    check(configurator(enable_mixed_chunk=True, page_size=64), "0.5.23")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"enable_mixed_chunk": True, "page_size": 64},
            "--enable-mixed-chunk and pages of 64 tokens on SGLang 0.5.16",
        ),
        ({"prefill_only_disable_kv_cache": True}, "--prefill-only-disable-kv-cache"),
        (
            {"attention_backend": "triton"},
            "Llama 4 on --attention-backend triton, which reads window layers by",
        ),
        ({"decode_attention_backend": "triton"}, "Llama 4 on --attention-backend triton"),
        (
            {"architecture": "GptOssForCausalLM", "attention_backend": "torch_native"},
            "window layers on --attention-backend torch_native",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said) as caught:
        check(configurator(**options))
    assert "FARSPAN_KV_POOLS=sglang" in str(caught.value.fix)


def test_pools_of_a_draft_model_those_sized_after_graphs_and_shards_are_refused() -> None:
    draft, late, sharded = configurator(), configurator(), configurator()
    draft.is_draft_worker, late.post_capture_kv_active, sharded.kv_shard_size = True, True, 2
    with pytest.raises(UnsupportedError, match="a draft model"):
        check(draft)
    with pytest.raises(UnsupportedError, match="SGLANG_ENABLE_POST_CAPTURE_KV_SIZING"):
        check(late)
    with pytest.raises(UnsupportedError, match="--enable-kv-cache-sharding"):
        check(sharded)


def test_the_switch_leaves_the_pools_to_sglang(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = configurator().server_args
    assert kv_hooks.wants_elastic_pools(asked)
    assert not kv_hooks.wants_elastic_pools(Values(radix_cache_backend=None))
    monkeypatch.setenv(POOLS_VARIABLE, "sglang")
    assert not kv_hooks.wants_elastic_pools(asked)
    monkeypatch.setenv(POOLS_VARIABLE, "stock")
    with pytest.raises(InputError, match="FARSPAN_KV_POOLS is 'stock'"):
        kv_hooks.wants_elastic_pools(asked)
