"""Plans for SGLang with the plug-in: what is reserved, what has memory, what a request keeps, and what is refused."""

from __future__ import annotations

import pytest

import farspan
from farspan.engines.registry import get_engine
from farspan.errors import InputError, UnsupportedError
from farspan.planner.answers import PlanAnswer
from farspan.planner.ledger import LedgerPhase
from farspan.planner.request import EnginePlan

GIB = 2**30
SEGMENT = 2 * 2**20


def plan(
    model: str, *flags: str, gpus: str = "1xH200", version: str = "0.5.16", **asked: object
) -> EnginePlan:
    answer = farspan.plan(
        model,
        gpus=gpus,
        engine="sglang",
        engine_version=version,
        elastic=True,
        offline=True,
        no_calibration=True,
        engine_flags=flags,
        **asked,  # type: ignore[arg-type]
    )
    assert isinstance(answer, PlanAnswer)
    return answer.plans[0]


def test_ten_million_tokens_start_without_limiting_requests() -> None:
    """Eager, as on the machine where it was tried: the table of 76 GiB is what stood in the way."""
    flags = ("--disable-cuda-graph", "--attention-backend", "triton", "--max-running-requests", "2048")
    asked = {"context": "10M", "gpus": "8xH200", "as_given": True}
    with_it = plan("llama-4-scout", *flags, **asked)
    without = farspan.plan(
        "llama-4-scout",
        gpus="8xH200",
        engine="sglang",
        engine_version="0.5.16",
        context="10M",
        offline=True,
        no_calibration=True,
        as_given=True,
        engine_flags=flags,
    ).plans[0]
    assert not without.starts
    assert with_it.starts
    table = next(line for line in with_it.ledger if line.name == "Request-to-token table, elastic")
    assert table.bytes < 0.4 * GIB, "two rows of 40 MB in pieces of 64 MiB"
    assert with_it.pools["bytes reserved for the table"] == 2049 * 10_000_004 * 4
    assert "--radix-cache-backend farspan" in " ".join(with_it.flags)


@pytest.mark.parametrize("version", ["0.5.16", "0.5.23"])
def test_pools_of_one_gpu_grow_with_the_requests(version: str) -> None:
    one, four = (plan("llama-3.1-8b", context="128k", concurrency=count, version=version) for count in (1, 4))
    assert one.fits
    assert four.fits
    idle = one.pools["bytes at idle"]
    assert idle == four.pools["bytes at idle"] < GIB
    assert idle >= 2 * 32 * SEGMENT, "keys and values of each of 32 layers"
    kept = one.pools["bytes a request keeps"]
    assert kept == 128_000 * 32 * 2 * 8 * 128 * 2
    row = 4 * min(128_004, 128_000 + 1024)
    assert one.pools["bytes at 1 x 128,000 tokens"] == idle + kept + row
    assert four.pools["bytes at 4 x 128,000 tokens"] == idle + 4 * (kept + row)
    # What the pools may grow to is one line, with the table in it: the same bytes as SGLang's own pools.
    (line,) = [line for line in one.ledger if line.when is LedgerPhase.POOL]
    assert line.bytes == one.available_kv_bytes
    assert sum(line.bytes for line in one.ledger if not line.on_host) <= 140 * GIB
    assert any("of memory at idle" in note for note in one.notes)


@pytest.mark.parametrize("version", ["0.5.16", "0.5.23"])
def test_pools_of_pages_are_elastic(version: str) -> None:
    one = plan("llama-3.1-8b", context="128k", version=version)
    paged = plan("llama-3.1-8b", "--page-size", "64", context="128k", version=version)
    assert "FARSPAN_KV_POOLS" not in paged.env
    assert paged.pools["bytes at idle"] == one.pools["bytes at idle"], "a page is smaller than a segment"


@pytest.mark.parametrize("version", ["0.5.16", "0.5.23"])
def test_pools_of_tensor_parallel_ranks_are_elastic(version: str) -> None:
    served = plan("llama-4-scout", context="1M", gpus="8xH200", version=version)
    assert "FARSPAN_KV_POOLS" not in served.env
    assert "--tp-size 8" in " ".join(served.flags)
    assert served.pools["bytes at idle"] < GIB
    # 12 of 48 layers attend to everything; a rank has one of 8 heads. Window layers keep little more than a window.
    full, window = (layers * 2 * 128 * 2 for layers in (12, 36))
    beside = served.pools["bytes a request keeps"] - 1_000_000 * full
    assert 8_192 * window <= beside < 1.1 * 8_192 * window


@pytest.mark.parametrize(
    ("model", "flags", "said"),
    [
        ("llama-4-scout", ["--attention-backend", "triton"], "with triton Llama 4 reads window layers"),
        (
            "llama-3.1-70b",
            ["--dp-size", "2", "--enable-dp-attention"],
            "ranks of data-parallel attention have requests",
        ),
        ("llama-3.1-70b", ["--pp-size", "2"], "pipeline stages run the same requests at different times"),
        (
            "llama-3.1-70b",
            ["--page-size", "64", "--enable-mixed-chunk"],
            "with --enable-mixed-chunk and pages SGLang 0.5.16 decodes",
        ),
    ],
)
def test_pools_stay_sglangs_own_where_the_plugin_would_refuse(
    model: str, flags: list[str], said: str
) -> None:
    served = plan(model, *flags, context="128k", gpus="8xH200")
    assert served.env["FARSPAN_KV_POOLS"] == "sglang"
    assert any(said in note for note in served.notes)
    assert served.pools["bytes at idle"] > 50 * GIB, "pools of one size from the start"


def test_a_variable_leaves_the_pools_alone() -> None:
    served = plan("llama-3.1-8b", "FARSPAN_KV_POOLS=sglang", context="128k")
    assert served.env == {"FARSPAN_KV_POOLS": "sglang"}
    assert any("FARSPAN_KV_POOLS=sglang" in note for note in served.notes)


@pytest.mark.parametrize(
    ("model", "flags", "version", "complaint"),
    [
        (
            "llama-3.1-8b",
            ["--enable-memory-saver"],
            "0.5.16",
            "--enable-memory-saver: it moves the memory itself",
        ),
        (
            "llama-3.1-8b",
            ["--enable-hierarchical-cache"],
            "0.5.16",
            "--enable-hierarchical-cache: it was not tried",
        ),
        ("llama-3.1-8b", [], "0.5.10", "the plug-in does not know SGLang 0.5.10; use one of 0.5.16, 0.5.23"),
        ("llama-3.1-8b", ["--radix-cache-backend", "other"], "0.5.16", "other contradicts --elastic"),
        ("qwen3.5-35b-a3b", [], "0.5.23", "models with recurrent state have another table"),
    ],
)
def test_what_cannot_be_combined_is_refused_by_name(
    model: str, flags: list[str], version: str, complaint: str
) -> None:
    gpus = "8xH200" if "qwen" in model else "1xH200"
    with pytest.raises(InputError, match=complaint):
        plan(model, *flags, context="128k", version=version, gpus=gpus)


def test_each_engine_says_what_elastic_means_to_it() -> None:
    with pytest.raises(UnsupportedError, match="vLLM has no elastic KV cache"):
        farspan.plan("llama-3.1-8b", gpus="1xH200", engine="vllm", context="8k", elastic=True, offline=True)
    with pytest.raises(InputError, match="--elastic belongs to one engine"):
        farspan.plan("llama-3.1-8b", gpus="1xH200", context="8k", elastic=True, offline=True)
    answer = farspan.plan(
        "llama-3.1-8b", gpus="1xH200", engine="builtin", context="8k", elastic=True, offline=True
    )
    assert isinstance(answer, PlanAnswer)
    assert "Its KV cache is always elastic: --elastic changes nothing." in answer.plans[0].notes
    assert get_engine("sglang").with_elastic(("--radix-cache-backend", "farspan")) == (
        "--radix-cache-backend",
        "farspan",
    )
