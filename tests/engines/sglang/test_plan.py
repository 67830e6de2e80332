"""SGLang's plan against what servers printed, left over and ran out of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import farspan
from farspan.engines.sglang.defaults import default_backend
from farspan.engines.sglang.engine import ENGINE as SGLANG
from farspan.engines.sglang.plan import outline_sglang, plan_sglang
from farspan.engines.sglang.tables import radix_copy_bytes, request_rows
from farspan.engines.sglang.versions import KNOWN_VERSIONS, rules_of
from farspan.errors import DoesNotFitError, InputError, UnsupportedError
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.models.spec import KvDtype
from farspan.models.state_dtypes import with_recurrent_dtype
from farspan.planner.answers import PlanAnswer
from farspan.planner.checked import check_overrides
from farspan.planner.document import PlanDocument
from farspan.planner.engine_flags import parse_engine_flags
from farspan.planner.ledger import Basis, LedgerPhase, MemoryLedger
from farspan.planner.request import EnginePlan, PlanRequest

GIB = 2**30
OBSERVED: dict[str, Any] = json.loads((Path(__file__).parent / "observed.json").read_text(encoding="utf-8"))
SCOUT = load_model("llama-4-scout", allow_network=False)
H200 = find_gpu("H200")
FP8 = KvDtype.FP8_E4M3


def free_when_started(ledger: MemoryLedger, *, certain_only: bool = False) -> int:
    """Bytes left once the server is up, negative if it does not start; `certain_only` skips assumed lines."""
    used = sum(
        line.bytes
        for line in ledger
        if not line.on_host
        and line.when is not LedgerPhase.RUNTIME
        and not (certain_only and line.basis is Basis.ASSUMED)
    )
    return ledger.capacity_bytes - used


def request(
    version: str,
    context: int = 10_000_000,
    kv: KvDtype = FP8,
    flags: dict[str, str | None] | None = None,
    **changes: Any,
) -> PlanRequest:
    """A question about Scout on eight H200; with flags, about exactly these."""
    base = PlanRequest(
        SCOUT, H200, 8, 8, context, kv_dtype=kv, engine_version=version, engine_flags=flags or {}
    )
    return replace(base, **{"as_given": bool(flags), **changes})


def plan(version: str, context: int = 10_000_000, kv: KvDtype = FP8, **flags_and_changes: Any) -> EnginePlan:
    return plan_sglang(request(version, context, kv, **flags_and_changes))


@pytest.mark.parametrize("row", OBSERVED["left_over"], ids=lambda row: f"{row['context']}-{row['fraction']}")
def test_what_0_5_6_post2_leaves_over_to_a_tenth_of_a_gib(row: dict[str, Any]) -> None:
    flags: dict[str, str | None] = {"--mem-fraction-static": str(row["fraction"])}
    if not row["graphs"]:
        flags["--disable-cuda-graph"] = None
    if row["rows"]:
        flags["--max-running-requests"] = str(row["rows"])
    found = plan("0.5.6.post2", row["context"], KvDtype(row["kv"]), flags=flags)
    # The figures were taken before the allocators' index arrays, which this plan counts too.
    left = free_when_started(found.ledger, certain_only=True) + found.ledger["Token index arrays"].bytes
    assert round(left / GIB, 1) == row["gib"]


@pytest.mark.parametrize(
    "server", OBSERVED["servers"], ids=lambda s: f"{s['version']}-{s['flags']['--mem-fraction-static']}"
)
def test_every_server_starts_or_stops_where_it_did(server: dict[str, Any]) -> None:
    found = plan(server["version"], server["context"], KvDtype(server["kv"]), flags=server["flags"])
    assert found.starts == server["starts"]
    if not server["starts"]:
        assert not found.fits
        overflow = found.ledger.first_overflow()
        assert overflow is not None
        assert overflow.name == server["stops_at"]
        assert overflow.name in found.reason
    for name, value in server.get("printed", {}).items():
        if isinstance(value, int) and "tokens" not in name:
            assert found.printed[name] == value
        elif name in found.printed:
            assert found.printed[name] == pytest.approx(value, rel=0.02)
        else:
            assert not server["starts"]


@pytest.mark.parametrize(
    "server", [s for s in OBSERVED["servers"] if s.get("printed")], ids=lambda s: s["version"]
)
def test_pools_are_exact_given_the_engines_own_free_bytes(server: dict[str, Any]) -> None:
    ratio = server["flags"].get("--swa-full-tokens-ratio", "0.8")
    fewest = OBSERVED["fewest_free_bytes"][f"ratio_{ratio}"]
    for available in (fewest, fewest + 3000):  # a cell is 10444.8 or 3532.8 bytes
        found = plan("0.5.16", flags=server["flags"], available_kv_bytes=available)
        assert found.pools == {
            "full": server["printed"]["full_layer_tokens"],
            "window": server["printed"]["swa_layer_tokens"],
        }
        for name in ("SWAKVPool mem usage", "K size", "V size", "K size (swa)", "V size (swa)"):
            if name in server["printed"] and server["starts"]:
                assert found.printed[name] == server["printed"][name]
    short = plan("0.5.16", flags=server["flags"], available_kv_bytes=fewest - 1)
    assert short.pools["full"] == server["printed"]["full_layer_tokens"] - 1


def test_the_2m_server_of_0_5_6_post2_serves_its_request() -> None:
    found = plan(
        "0.5.6.post2",
        2_097_152,
        KvDtype.AUTO,
        flags={"--mem-fraction-static": "0.80", "--disable-cuda-graph": None},
    )
    assert found.fits
    assert found.time is not None
    assert found.time.request_expected_s == pytest.approx(403.07, rel=0.15)
    # 2,097,151 tokens were 56 % of the pool near the end of the prompt.
    assert 2_097_151 / found.pools["full"] == pytest.approx(0.58, abs=0.03)


def test_10m_starts_with_8_rows_and_no_fraction_replaces_that() -> None:
    for version in KNOWN_VERSIONS:
        for fraction in ("0.80", "0.75", "0.70", "0.65"):
            flags: dict[str, str | None] = {"--mem-fraction-static": fraction, "--disable-cuda-graph": None}
            assert not plan(version, flags=flags).starts
            assert plan(version, flags={**flags, "--max-running-requests": "8"}).starts


def test_the_warning_gives_the_cure_and_says_why_the_fraction_is_none() -> None:
    found = plan("0.5.16", flags={"--mem-fraction-static": "0.65", "--disable-cuda-graph": None})
    text = " ".join(found.warnings)
    assert "76.3 GiB" in text
    assert "--max-running-requests 8" in text
    assert "no cure: --mem-fraction-static would have to fall to 0.44" in text
    at_2m = plan("0.5.6.post2", 2_097_152, KvDtype.AUTO, flags={"--mem-fraction-static": "0.85"})
    assert not at_2m.starts
    assert not any("no cure" in warning for warning in at_2m.warnings)
    assert any("would have to fall to 0.79 for the server to start" in w for w in at_2m.warnings)
    lowered = plan("0.5.16", flags={"--mem-fraction-static": "0.44", "--disable-cuda-graph": None})
    assert lowered.starts
    assert lowered.pools["full"] == pytest.approx(3_200_000, rel=0.05)
    assert not lowered.fits


def test_0_5_6_post2_cannot_serve_one_request_of_10m_at_all() -> None:
    for fraction in ("0.80", "0.88", "0.90"):
        found = plan("0.5.6.post2", flags={"--mem-fraction-static": fraction, "--max-running-requests": "8"})
        assert found.starts
        assert not found.fits
        assert found.capacity_tokens < 8_500_000
    assert found.pools["full"] * 12288 < 110 * GIB


def test_flags_are_added_only_where_the_defaults_do_not_serve() -> None:
    bare = plan("0.5.16")
    assert bare.fits
    assert bare.flags[-4:] == ("--max-running-requests", "8", "--swa-full-tokens-ratio", "0.05")
    assert any("farspan adds" in warning for warning in bare.warnings)
    given = plan("0.5.16", flags={"--mem-fraction-static": "0.85"})
    assert not given.fits
    assert "--max-running-requests" not in given.flags
    short = plan("0.5.16", 100_000)
    assert short.fits
    assert not any("farspan adds" in warning for warning in short.warnings)


@pytest.mark.parametrize(
    "flags",
    [
        {"--enable-hierarchical-cache": None},
        {"--disable-radix-cache": None},
        {"--disable-cuda-graph": None},
        {"--cpu-offload-gb": "2"},
        {"--mem-fraction-static": "0.85"},
        {
            "--enable-hierarchical-cache": None,
            "--hicache-ratio": "1.5",
            "--disable-radix-cache": None,
            "--disable-cuda-graph": None,
            "--cpu-offload-gb": "2",
        },
    ],
)
def test_a_flag_given_does_not_keep_the_plan_from_adding_others(flags: dict[str, str | None]) -> None:
    found = plan("0.5.23", flags=flags, as_given=False)
    assert found.fits
    assert "--max-running-requests 8" in found.added
    assert all(name in found.flags for name in flags)
    # What is planned holds when it is given back word for word.
    words = parse_engine_flags(found.flags[4:])
    assert plan("0.5.23", flags=words).fits


def test_a_flag_given_is_never_changed() -> None:
    rows: dict[str, str | None] = {"--max-running-requests": "4096"}
    found = plan("0.5.16", flags=rows, as_given=False)
    assert not found.fits
    assert found.flags.count("--max-running-requests") == 1
    assert found.flags[found.flags.index("--max-running-requests") + 1] == "4096"


def test_what_is_short_is_blamed_and_nothing_beside_it() -> None:
    harmless: dict[str, str | None] = {"--disable-radix-cache": None, "--disable-cuda-graph": None}
    asked = request("0.5.23", flags={**harmless, "--max-running-requests": "4096"}, as_given=False)
    with pytest.raises(DoesNotFitError, match=r"^--max-running-requests 4096 breaks the plan"):
        check_overrides(asked, SGLANG)
    assert check_overrides(request("0.5.23", flags=harmless, as_given=False), SGLANG).plan.fits


def test_advice_about_the_prefix_tree_passes_its_own_check() -> None:
    given = request("0.5.6.post2", 2_097_152, KvDtype.AUTO)
    text = next(w for w in plan_sglang(given).notes if "The prefix tree of" in w)
    ways = text.rpartition(": add ")[2].rstrip(".").split(" or ")
    assert len(ways) == 2
    for way in ways:
        asked = request(
            "0.5.6.post2", 2_097_152, KvDtype.AUTO, flags=parse_engine_flags(way.split()), as_given=False
        )
        assert check_overrides(asked, SGLANG).plan.fits
    assert "--mem-fraction-static" in ways[0]


def test_a_prompt_above_the_window_pool_waits_for_ever_before_0_5_10() -> None:
    flags: dict[str, str | None] = {
        "--mem-fraction-static": "0.85",
        "--max-running-requests": "8",
        "--hybrid-kvcache-ratio": "1",
    }
    found = plan("0.5.6.post2", flags=flags)
    assert found.starts
    assert found.pools["full"] > 10_000_000 > found.pools["window"]
    assert not found.fits
    assert found.capacity_tokens < found.pools["window"]
    assert "waits for ever" in found.reason


def test_the_longest_prompt_is_said() -> None:
    found = plan("0.5.16", flags={"--max-running-requests": "8", "--swa-full-tokens-ratio": "0.05"})
    assert any(
        "9,999,993 tokens" in warning for warning in found.warnings
    )  # min(context, pool) - 1 - 5, exclusive


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
@pytest.mark.parametrize("context", [100_000, 2_097_152, 7_000_000, 10_000_000])
@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"--mem-fraction-static": "0.85"},
        {"--mem-fraction-static": "0.8", "--max-running-requests": "8"},
        {"--mem-fraction-static": "0.8", "--max-running-requests": "8", "--attention-backend": "triton"},
    ],
)
def test_the_outline_is_the_plan_without_its_ledger(
    version: str, context: int, flags: dict[str, str | None]
) -> None:
    asked = request(version, context, flags=flags)
    full, outline = plan_sglang(asked), outline_sglang(asked)
    for name in ("starts", "fits", "reason", "pools", "capacity_tokens", "max_concurrency", "flags", "time"):
        assert getattr(full, name) == getattr(outline, name), name
    assert full.starts == (free_when_started(full.ledger) >= 0)
    if full.fits:
        assert full.ledger.free_bytes >= 0


def test_rows_are_clamped_between_2048_and_4096() -> None:
    for version in KNOWN_VERSIONS:
        rules = rules_of(version)
        assert request_rows(6_000_000, 10_000_000, None, rules) == 2048
        assert request_rows(6_000_000, 1_000_000, None, rules) == 3072
        assert request_rows(60_000_000, 10_000, None, rules) == 4096
        assert request_rows(6_000_000, 10_000_000, 8, rules) == 8
    assert request_rows(3000, 10_000, None, rules_of("0.5.6.post2")) == 2048
    assert request_rows(3000, 10_000, None, rules_of("0.5.16")) == 1500


def test_index_copies_of_the_prefix_tree() -> None:
    assert radix_copy_bytes(2_000_000, 8192) / GIB == pytest.approx(1.84, abs=0.01)
    assert radix_copy_bytes(10_000_000, 8192) / GIB == pytest.approx(45.5, abs=0.1)
    flags: dict[str, str | None] = {"--mem-fraction-static": "0.80", "--disable-cuda-graph": None}
    on = plan("0.5.6.post2", 2_097_152, KvDtype.AUTO, flags=flags)
    off = plan("0.5.6.post2", 2_097_152, KvDtype.AUTO, flags={**flags, "--disable-radix-cache": None})
    new = plan("0.5.16", 2_097_152, KvDtype.AUTO, flags=flags)
    assert on.ledger["Prefix tree: index copies"].when is LedgerPhase.RUNTIME
    assert "Prefix tree: index copies" not in off.ledger
    assert "Prefix tree: index copies" not in new.ledger


def test_page_size_above_1_with_llama_4_on_fa3_is_warned_of_in_0_5_6_post2() -> None:
    flags: dict[str, str | None] = {"--page-size": "16", "--max-running-requests": "8"}
    assert any("Page size 16" in w for w in plan("0.5.6.post2", 1_000_000, flags=flags).warnings)
    assert not any("Page size 16" in w for w in plan("0.5.16", 1_000_000, flags=flags).warnings)


def test_e5m2_falls_back_to_triton_and_says_so() -> None:
    found = plan("0.5.16", 1_000_000, KvDtype.FP8_E5M2, flags={"--max-running-requests": "8"})
    assert any("E4M3 only" in note for note in found.notes)
    assert any("triton" in line.source for line in found.ledger if line.when is LedgerPhase.GRAPHS)


def test_tensor_parallel_beyond_the_kv_heads_copies_them() -> None:
    model = load_model("llama-3.1-405b", allow_network=False)
    found = plan_sglang(replace(request("0.5.16", 100_000), model=model, gpus=16, tp=16))
    assert any("each rank keeps a copy" in note for note in found.notes)
    at_8 = plan_sglang(replace(request("0.5.16", 100_000), model=model, gpus=8, tp=8))
    assert found.printed["K size"] / found.pools["full"] == pytest.approx(
        at_8.printed["K size"] / at_8.pools["full"], rel=1e-3
    )


def test_the_ledger_adds_up_and_names_what_it_does_not_know() -> None:
    found = plan("0.5.23", flags={"--max-running-requests": "8", "--swa-full-tokens-ratio": "0.05"})
    assert found.fits
    assert found.ledger.gpu_bytes + found.ledger.free_bytes == H200.memory_bytes
    assert {line.name for line in found.ledger if line.basis is Basis.ASSUMED} == {
        "CUDA graphs: captured",
        "CUDA graphs: prefill",
        "Prefill activations",
    }
    weights = found.ledger["Weights"].bytes + found.ledger["RoPE tables"].bytes
    assert found.weights_bytes == weights
    assert found.ledger["RoPE tables"].bytes == pytest.approx(5 * GIB, rel=1e-4)
    loaded = (weights + found.ledger["Other load-time buffers"].bytes) / GIB
    assert loaded == pytest.approx(30.27, abs=0.01)  # "mem usage=30.27 GB"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flags": {"--speculative-algorithm": "DFLASH"}}, "drafts in a way farspan does not mirror"),
        ({"flags": {"--hybrid-kvcache-ratio": "1"}}, "no --hybrid-kvcache-ratio"),
        ({"flags": {"--mem-fraction-static": "1.5"}}, "not between 0 and 1"),
        ({"flags": {"--swa-full-tokens-ratio": "0"}}, "above 0"),
        ({"flags": {"--page-size": "16", "--chunked-prefill-size": "1000"}}, "not a multiple"),
        ({"flags": {"--tp-size": "4"}}, "contradicts"),
        ({"flags": {"--attention-backend": "flashinfer"}}, "for Llama 4"),
        ({"flags": {"--kv-cache-dtype": "int8"}}, "not mirrored"),
        ({"flags": {"--context-length": "20000000"}}, "above the 10485760"),
        ({"flags": {"--max-running-requests": "many"}}, "not a whole number"),
        ({"tp": 3}, "does not divide"),
        (
            {"model": load_model("deepseek-ai/DeepSeek-V4-Flash", allow_network=False), "context": 100_000},
            "latents at several rates",
        ),
        (
            {"model": load_model("MiniMaxAI/MiniMax-M3", allow_network=False), "context": 100_000},
            "no implementation",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    base = request("0.5.16", flags=changes.pop("flags", None))
    with pytest.raises(InputError, match=words) as caught:
        plan_sglang(replace(base, **changes))
    assert caught.value.fix
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "planned", "words"),
    [
        ("0.5.9", "0.5.9", ""),
        ("v0.5.10.post1", "0.5.10.post1", ""),
        ("0.5.16+cu129", "0.5.16", ""),
        ("0.5.17rc1", "0.5.17", "0.5.17rc1 is planned as 0.5.17"),
        ("0.5.21.dev20260801+g1a2b3c4", "0.5.21", "is planned as 0.5.21"),
        ("0.5.22-nightly-20260901", "0.5.22", "is planned as 0.5.22"),
        ("0.4.9", "0.5.1", "older than farspan's rules: planned as 0.5.1"),
        ("0.7.0", "0.5.23", "is not known: planned as 0.5.23"),
    ],
)
def test_every_version_string_is_planned_and_others_than_releases_are_said(
    wanted: str, planned: str, words: str
) -> None:
    found = plan(wanted, 100_000)
    assert found.version == planned
    assert found.fits
    noted = [warning for warning in found.warnings if f"sglang {wanted}" in warning]
    assert (words in noted[0]) if words else not noted


def test_rules_change_where_the_releases_changed() -> None:
    def releases(name: str, value: object) -> list[str]:
        return [version for version in KNOWN_VERSIONS if getattr(rules_of(version), name) == value]

    assert releases("radix_copies_indices", True)[-1] == "0.5.7"
    assert releases("admits_by_smaller_pool", True)[-1] == "0.5.10"
    assert releases("padding_row", True)[0] == "0.5.12"
    assert releases("prefill_graphs", True)[0] == "0.5.10"
    assert releases("triton_mask", False)[0] == "0.5.17"
    assert releases("small_cards_grew", True)[0] == "0.5.20"
    assert releases("hicache_must_exceed_device", True)[-1] == "0.5.14"
    assert rules_of("0.5.10.post1") == replace(rules_of("0.5.10"), version="0.5.10.post1")


def test_a_split_by_bytes_from_0_5_9_is_the_older_one_where_layers_are_alike() -> None:
    found = {
        v: plan(v, 100_000, KvDtype.AUTO, flags={"--max-running-requests": "8"}) for v in ("0.5.8", "0.5.9")
    }
    pools = [plan.pools for plan in found.values()]
    assert pools[0]["full"] == pytest.approx(pools[1]["full"], abs=2)
    assert pools[0]["window"] == pytest.approx(0.8 * pools[0]["full"], abs=2)


@pytest.mark.parametrize(
    ("version", "flags", "words", "fix"),
    [
        (
            "0.5.23",
            {"--mem-fraction-statc": "0.5"},
            "has no flag --mem-fraction-statc",
            "--mem-fraction-static",
        ),
        ("0.5.6.post2", {"--cuda-graph-max-bs-decode": "8"}, "has no flag", "--cuda-graph-max-bs"),
        ("0.5.10", {"--hybrid-kvcache-ratio": "1"}, "does nothing any more", "--swa-full-tokens-ratio"),
        ("0.5.23", {"--quantization": "awq"}, "weights in bfloat16", "--weights fp8"),
        ("0.5.23", {"--dtype": "float32"}, "weights of another size", "without --dtype"),
        ("0.5.23", {"--load-format": "gguf"}, "not mirror", "--load-format"),
        ("0.5.23", {"--enable-lora": None}, "LoRA", "without --enable-lora"),
        ("0.5.23", {"--moe-a2a-backend": "deepep"}, "exchange", "without"),
        ("0.5.23", {"--device": "cpu"}, "not a GPU", "--device"),
    ],
)
def test_no_flag_passes_in_silence(version: str, flags: dict[str, str | None], words: str, fix: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        plan(version, 100_000, flags=flags)
    assert fix in str(caught.value.fix)


def test_flags_without_a_part_in_memory_pass_and_stay() -> None:
    flags: dict[str, str | None] = {
        "--enable-metrics": None,
        "--dtype": "float16",
        "--moe-a2a-backend": "none",
        "--pp-size": "1",
        "--schedule-policy": "fcfs",
    }
    found = plan("0.5.23", 100_000, flags=flags)
    assert found.pools == plan("0.5.23", 100_000).pools
    assert all(name in found.flags for name in flags)


def test_deterministic_inference_chooses_its_backend() -> None:
    b200, rules = find_gpu("B200"), rules_of("0.5.16")
    qwen, deepseek = (load_model(name, allow_network=False) for name in ("qwen3-8b", "deepseek-v3"))
    assert default_backend(qwen, b200, rules) == "trtllm_mha"
    assert default_backend(qwen, b200, rules, deterministic=True) == "flashinfer"
    assert default_backend(deepseek, b200, rules, deterministic=True) == "triton"
    assert default_backend(qwen, H200, rules, deterministic=True) == "fa3"
    given = replace(
        PlanRequest(qwen, b200, 1, 1, 32_000, engine_version="0.5.16"),
        engine_flags={"--enable-deterministic-inference": None},
    )
    workspaces = [line.formula for line in plan_sglang(given).ledger if line.name == "Attention workspace"]
    assert workspaces == ["384 MiB"]


def test_weights_above_the_fraction_leave_no_pool() -> None:
    found = plan("0.5.16", 100_000, flags={"--mem-fraction-static": "0.2"})
    assert not found.starts
    assert found.pools == {}
    assert "no KV token fits" in found.reason


def test_a_window_pool_too_small_for_one_request_is_refused_as_sglang_does() -> None:
    found = plan(
        "0.5.16", 100_000, flags={"--swa-full-tokens-ratio": "0.0002", "--max-running-requests": "8"}
    )
    assert not found.starts
    assert "cannot hold one request" in found.reason
    barely = plan(
        "0.5.16", 100_000, flags={"--swa-full-tokens-ratio": "0.0005", "--max-running-requests": "8"}
    )
    assert barely.fits
    assert barely.max_concurrency == 1


def test_window_pool_sized_by_requests_without_a_prefix_tree() -> None:
    flags: dict[str, str | None] = {"--max-running-requests": "8", "--disable-radix-cache": None}
    found = plan("0.5.16", flags=flags)
    assert found.fits
    assert found.pools["window"] == 8 * (8192 + 128 + 1 + 1) + 2 * 8192 + 1
    assert found.max_concurrency < 8


@pytest.mark.parametrize(
    "name", ["deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3.2", "openai/gpt-oss-120b"]
)
@pytest.mark.parametrize("version", KNOWN_VERSIONS)
def test_other_kinds_of_model_are_planned(name: str, version: str) -> None:
    model = load_model(name, allow_network=False)
    asked = replace(request(version, 100_000, KvDtype.AUTO), model=model)
    if name.endswith("V3.2") and version in ("0.5.1", "0.5.2"):
        with pytest.raises(InputError, match="has no implementation of DeepseekV32ForCausalLM"):
            plan_sglang(asked)
        return
    found = plan_sglang(asked)
    assert found.starts, found.reason
    assert found.capacity_tokens > 100_000
    hybrid = name.startswith("openai") and not rules_of(version).hybrid_flag
    assert ("window" in found.pools) == hybrid


def test_recurrent_layers_get_a_state_pool() -> None:
    model = load_model("Qwen/Qwen3.5-27B", allow_network=False)
    found = plan_sglang(replace(request("0.5.23", 200_000, KvDtype.AUTO), model=model, tp=4))
    assert found.starts
    assert found.pools["state slots"] > 0
    assert found.ledger["Recurrent state pool"].bytes % model.layers[0].state_bytes(4) == 0


@pytest.mark.parametrize("version", ["0.5.16", "0.5.23"])
def test_states_are_float32_unless_a_flag_says_otherwise(version: str) -> None:
    """As SGLang keeps them (configs/mamba_utils.py); Qwen3-Next's config says nothing, and its own type is bfloat16."""
    model = load_model("Qwen/Qwen3.5-35B-A3B", allow_network=False)
    halved = with_recurrent_dtype(model, "bfloat16")
    assert halved.layers[0].state_bytes(1) < model.layers[0].state_bytes(1)
    slots = {
        (spec is halved, dtype): plan_sglang(
            replace(
                request(version, 32_000, KvDtype.AUTO),
                model=spec,
                tp=1,
                engine_flags={"--mamba-ssm-dtype": dtype} if dtype else {},
            )
        ).pools["state slots"]
        for spec in (model, halved)
        for dtype in ("", "bfloat16")
    }
    assert slots[False, ""] == slots[True, ""]
    assert slots[False, "bfloat16"] == slots[True, "bfloat16"] > 1.8 * slots[False, ""]


def test_the_strategy_for_states_that_auto_comes_to_is_taken() -> None:
    model = load_model("Qwen/Qwen3.5-27B", allow_network=False)

    def slots(version: str, flags: dict[str, str | None]) -> float:
        asked = replace(request(version, 32_000, KvDtype.AUTO), model=model, tp=1, engine_flags=flags)
        return plan_sglang(asked).max_concurrency

    for name, version in (
        ("--mamba-scheduler-strategy", "0.5.16"),
        ("--mamba-radix-cache-strategy", "0.5.23"),
    ):
        assert slots(version, {name: "extra_buffer"}) == slots(version, {})
        with pytest.raises(UnsupportedError, match="recurrent states"):
            slots(version, {name: "no_buffer"})
    with pytest.raises(UnsupportedError, match="recurrent states"):
        slots("0.5.10", {"--mamba-scheduler-strategy": "extra_buffer"})


def test_a_pipeline_is_planned_by_its_tightest_stage() -> None:
    whole = plan("0.5.23", 1_000_000, KvDtype.AUTO, gpus=16, flags={"--max-running-requests": "8"})
    halves = plan(
        "0.5.23", 1_000_000, KvDtype.AUTO, gpus=16, flags={"--max-running-requests": "8", "--pp-size": "2"}
    )
    assert halves.fits
    # Half the layers a GPU, and the vision tower and embedding on the first stage alone.
    assert 2 * whole.pools["full"] < halves.pools["full"] < 2.5 * whole.pools["full"]
    assert halves.weights_bytes < 0.6 * whole.weights_bytes + 5 * GIB
    assert halves.flags[halves.flags.index("--pp-size") + 1] == "2"
    assert any("2 pipeline stages" in note for note in halves.notes)
    with pytest.raises(InputError, match="2 pipeline stages of 8 GPUs need 16") as caught:
        plan("0.5.23", 1_000_000, flags={"--pp-size": "2"})
    assert caught.value.fix == "use --tp 4"


def test_a_model_larger_than_one_stages_gpus_fits_a_pipeline() -> None:
    big = load_model("deepseek-v3", allow_network=False)
    asked = PlanRequest(
        big, find_gpu("H100"), 16, 8, 32_000, engine_version="0.5.23", engine_flags={"--pp-size": "2"}
    )
    assert SGLANG.plan(asked).fits
    assert not SGLANG.plan(replace(asked, engine_flags={})).starts


def test_groups_of_data_parallel_attention_have_pools_of_their_own() -> None:
    big = load_model("deepseek-v3", allow_network=False)
    asked = PlanRequest(big, H200, 8, 8, 100_000, concurrency=16, engine_version="0.5.23")
    alone = SGLANG.plan(asked)
    assert not alone.fits
    grouped = SGLANG.plan(asked.with_flags({"--enable-dp-attention": None, "--dp-size": "8"}))
    assert grouped.fits
    assert grouped.max_concurrency == pytest.approx(8 * grouped.pools["full"] / 100_000)
    # Attention and embedding whole on each GPU, experts shared out as before.
    assert grouped.weights_bytes > alone.weights_bytes + 5 * GIB
    assert any("8 groups of 1 ranks" in note for note in grouped.notes)
    newer = SGLANG.plan(asked.with_flags({"--attn-dp-size": "8"}))
    assert newer.pools == grouped.pools
    with pytest.raises(InputError, match="3 groups does not divide 8 ranks"):
        SGLANG.plan(asked.with_flags({"--enable-dp-attention": None, "--dp-size": "3"}))


def test_sharing_experts_out_whole_changes_no_bytes() -> None:
    big = load_model("deepseek-v3", allow_network=False)
    asked = PlanRequest(big, H200, 8, 8, 100_000, engine_version="0.5.16")
    assert SGLANG.plan(asked.with_flags({"--ep-size": "8"})).pools == SGLANG.plan(asked).pools
    with pytest.raises(InputError, match="--ep-size 3 does not divide 8 ranks and 256 experts"):
        SGLANG.plan(asked.with_flags({"--ep-size": "3"}))


def test_context_ranks_hold_the_tokens_of_one_cache_together() -> None:
    big = load_model("deepseek-v3", allow_network=False)
    asked = PlanRequest(big, H200, 8, 8, 100_000, engine_version="0.5.23", as_given=True)
    fraction: dict[str, str | None] = {"--mem-fraction-static": "0.85"}
    alone = SGLANG.plan(asked.with_flags(fraction))
    shared = SGLANG.plan(asked.with_flags({**fraction, "--dcp-size": "8"}))
    assert shared.pools["full"] == 8 * alone.pools["full"]
    assert shared.capacity_tokens > 4_000_000
    assert shared.available_kv_bytes == alone.available_kv_bytes
    with pytest.raises(InputError, match="mirrored for MLA alone"):
        plan("0.5.23", 100_000, flags={"--dcp-size": "2"})
    with pytest.raises(InputError, match="--dcp-size 3 does not divide 8"):
        SGLANG.plan(asked.with_flags({"--dcp-size": "3"}))


@pytest.mark.parametrize(
    ("version", "flags", "layers", "reason"),
    [
        # 48 layers of 8 KV heads x 128 x 2 x 2 B over 8 ranks, one pool for all of them.
        ("0.5.6.post2", {}, 48, "in one pool its 36 window layers keep every token"),
        (
            "0.5.16",
            {"--disable-hybrid-swa-memory": None},
            48,
            "in one pool its 36 window layers keep every token",
        ),
        # Up to 0.5.10 a request must fit both pools whole.
        ("0.5.9", {}, 48, "sglang 0.5.9 keeps the whole request in the window layers' pool too"),
        ("0.5.16", {}, 12, ""),
    ],
)
def test_what_one_request_keeps_on_this_server(
    version: str, flags: dict[str, str | None], layers: int, reason: str
) -> None:
    found = farspan.plan(
        "llama-4-scout",
        gpus="8xH200",
        engine="sglang",
        engine_version=version,
        context=1_000_000,
        engine_flags=list(flags),
    )
    assert isinstance(found, PlanAnswer)
    shown = found["sglang"]
    windows = 0 if layers == 48 else 36 * 512 * (8192 + 128 + 2)
    assert shown.request_kv_bytes == layers * 512 * 1_000_000 + windows
    assert shown.request_kv_reason == reason
    written = found.to_json()["engines"]["sglang"]
    assert (written["request_kv_bytes"], written["request_kv_reason"]) == (shown.request_kv_bytes, reason)
    assert PlanDocument.from_json(found.to_json()).to_json() == found.to_json()


def test_weights_quantized_while_loading() -> None:
    model = load_model("llama-3.1-8b", allow_network=False)
    asked = PlanRequest(model, find_gpu("H100"), 1, 1, 32_000, engine_version="0.5.16")
    own = plan_sglang(asked)
    for method in ("fp8", "w8a8_fp8"):
        online = plan_sglang(asked.with_flags({"--quantization": method}))
        # Projections of the layers in one byte; embedding, output head and norms as they are.
        assert online.weights_bytes / GIB == pytest.approx(8.52, abs=0.02)
        assert own.weights_bytes - online.weights_bytes == 32 * 218_103_808
        assert online.capacity_tokens > own.capacity_tokens
    with pytest.raises(InputError, match="--quantization awq loads"):
        plan_sglang(asked.with_flags({"--quantization": "awq"}))
    # A loader that is not mirrored is refused beside it too.
    with pytest.raises(InputError, match="--load-format gguf"):
        plan_sglang(asked.with_flags({"--quantization": "fp8", "--load-format": "gguf"}))


@pytest.mark.parametrize("version", ["0.5.6.post2", "0.5.16", "0.5.23"])
@pytest.mark.parametrize(
    ("tp", "modules", "seen"),
    [
        # LoRAMemoryPool.init_buffers of these versions on torch's meta device: 8 adapters of rank 64, Llama 3.1 8B.
        (1, "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj", 2_684_354_560),
        (1, "q_proj v_proj o_proj", 872_415_232),
        (4, "qkv_proj o_proj gate_up_proj down_proj", 1_375_731_712),
        (4, "qkv_proj,o_proj", 620_756_992),
    ],
)
def test_buffers_of_lora_are_as_sglang_makes_them(version: str, tp: int, modules: str, seen: int) -> None:
    model = load_model("llama-3.1-8b", allow_network=False)
    asked = PlanRequest(model, find_gpu("H100"), tp, tp, 32_000, engine_version=version)
    flags: dict[str, str | None] = {
        "--enable-lora": None, "--max-lora-rank": "64", "--lora-target-modules": modules
    }  # fmt: skip
    alone, adapted = plan_sglang(asked), plan_sglang(asked.with_flags(flags))
    assert adapted.ledger["LoRA buffers"].bytes == seen
    # The buffers are made before the pool is sized, and prefill is captured beside them since 0.5.17.
    assert adapted.capacity_tokens < alone.capacity_tokens
    captured = "CUDA graphs: prefill" in adapted.ledger
    assert captured is (version == "0.5.23")


def lora_bytes(model: str, tp: int, version: str, modules: str) -> int:
    asked = PlanRequest(
        load_model(model, allow_network=False), find_gpu("H200"), tp, tp, 32_000, engine_version=version
    )
    flags: dict[str, str | None] = {
        "--enable-lora": None, "--max-lora-rank": "16", "--lora-target-modules": modules
    }  # fmt: skip
    return plan_sglang(asked.with_flags(flags)).ledger["LoRA buffers"].bytes


def test_lora_of_all_modules_has_words_and_makes_them_twice() -> None:
    layers = lora_bytes(
        "llama-3.1-8b", 2, "0.5.16", "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
    )
    words, hidden = 128_256, 4096
    for version, head in (("0.5.6.post2", words), ("0.5.16", words // 2)):
        both = 2 * 16 * ((words + hidden) + (hidden + head))
        assert lora_bytes("llama-3.1-8b", 2, version, "all") == layers + 8 * both * 2
        alone = lora_bytes("llama-3.1-8b", 2, version, "lm_head")
        assert alone == 8 * 16 * (hidden + head) * 2


def test_lora_of_experts_has_matrices_for_each() -> None:
    made = lora_bytes("qwen3-30b-a3b", 2, "0.5.16", "gate_proj up_proj down_proj")
    # 48 layers of 128 experts: 2048 wide, 768 of which a rank of two has half.
    expert = 2 * 16 * 2048 + 2 * 384 * 16 + 16 * 384 + 2048 * 16
    assert made == 8 * 48 * 128 * expert * 2
    with pytest.raises(InputError, match="not for Qwen3MoeForCausalLM"):
        lora_bytes("qwen3-30b-a3b", 2, "0.5.9", "q_proj")


def test_int8_is_taken_at_its_word() -> None:
    model = load_model("llama-3.1-8b", allow_network=False)
    asked = PlanRequest(model, find_gpu("H100"), 1, 1, 32_000, engine_version="0.5.16")
    plan = plan_sglang(asked.with_flags({"--quantization": "w8a8_int8"}))
    assert plan.weights_bytes / GIB == pytest.approx(8.49, rel=0.01)  # a published w8a8 checkpoint of it


def test_lora_that_is_left_to_the_adapters_is_refused() -> None:
    model = load_model("llama-3.1-8b", allow_network=False)
    asked = PlanRequest(model, find_gpu("H100"), 1, 1, 32_000, engine_version="0.5.16")
    for flags in (
        {"--enable-lora": None},
        {"--lora-paths": "a=/adapters/a"},
        {"--enable-lora": None, "--max-lora-rank": "64", "--lora-target-modules": "router"},
    ):
        with pytest.raises(InputError, match="planned by --max-lora-rank and --lora-target-modules"):
            plan_sglang(asked.with_flags(flags))
    with pytest.raises(InputError, match="not for Llama4ForConditionalGeneration"):
        plan("0.5.16", flags={"--enable-lora": None})
