"""Flags read as vLLM reads them, hybrid groups, warnings, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farspan.engines.vllm.defaults import batch_limits, prefix_caching
from farspan.engines.vllm.flags import CHUNKED_HYBRID_ENV, human_int, read_flags
from farspan.engines.vllm.hybrid import hybrid_state
from farspan.engines.vllm.layout import kv_layout
from farspan.engines.vllm.plan import outline_vllm, plan_vllm
from farspan.engines.vllm.pool import VllmKvLayout
from farspan.engines.vllm.versions import KNOWN_VERSIONS, RULES, rules_for
from farspan.errors import InputError, UnsupportedError
from farspan.hardware.catalog import find_gpu
from farspan.models.config import load_model
from farspan.models.spec import KvDtype, ModelSpec
from farspan.models.weights import rank_weight_bytes
from farspan.planner.ledger import Basis, LedgerPhase
from farspan.planner.request import EnginePlan, PlanRequest
from scout import GIB, H200, request, scout

AVAILABLE = 96_330_000_000
HYBRID, FULL = 15_629_536, 3_919_648


def plan(context: int, version: str, *flags: str, **changes: Any) -> EnginePlan:
    """A plan with flags written as words: a name, or name=value."""
    given = {name: value or None for name, _, value in (flag.partition("=") for flag in flags)}
    return plan_vllm(request(context, version, engine_flags=given, **changes))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8192", 8192),
        ("10k", 10_000),
        ("10K", 10_240),
        ("2M", 2_097_152),
        ("2m", 2_000_000),
        ("25.6k", 25_600),
    ],
)
def test_numbers_as_vllm_reads_them(text: str, value: int) -> None:
    assert human_int(text, "--max-model-len") == value


@pytest.mark.parametrize("text", ["", "ten", "1.5M", "1.5", "-3"])
def test_numbers_vllm_refuses(text: str) -> None:
    with pytest.raises(InputError, match="not a whole number"):
        human_int(text, "--max-model-len")


def test_capital_million_is_binary_and_said_so() -> None:
    answer = plan(10_000_000, "0.24.0", "--max-model-len=10M")
    assert "--max-model-len" in answer.flags
    assert "10485760" in answer.flags
    assert any("10M as 10,485,760" in note for note in answer.notes)


def test_underscores_and_short_names() -> None:
    answer = plan(1_000_000, "0.24.0", "--gpu_memory_utilization=0.5")
    assert answer.available_kv_bytes < plan(1_000_000, "0.24.0").available_kv_bytes - 50 * GIB


def test_batch_reserve_of_windowed_layers() -> None:
    """A chunked group reserves chunk + batch: 8192 more tokens a step cost three groups 512 blocks each."""
    usual = plan(1_000_000, "0.24.0", available_kv_bytes=AVAILABLE)
    larger = plan(1_000_000, "0.24.0", "--max-num-batched-tokens=16384", available_kv_bytes=AVAILABLE)
    assert usual.capacity_tokens - larger.capacity_tokens == 3 * 8192
    two = plan(1_000_000, "0.33.0", available_kv_bytes=AVAILABLE)
    one = plan(1_000_000, "0.33.0", "--no-async-scheduling", available_kv_bytes=AVAILABLE)
    assert one.capacity_tokens - two.capacity_tokens == 3 * 8192


@pytest.mark.parametrize(
    ("gpu", "version", "tokens", "requests"),
    [
        ("H200", "0.12.0", 8192, 1024),
        ("A100-80GB", "0.33.0", 2048, 256),
        ("L40S", "0.24.0", 2048, 256),
        ("B200", "0.24.0", 8192, 1024),
        ("B200", "0.33.0", 16384, 1024),
    ],
)
def test_default_batch_by_card(gpu: str, version: str, tokens: int, requests: int) -> None:
    rules = RULES[version]
    limits = batch_limits(read_flags(request(100_000, version), rules), find_gpu(gpu), 100_000, rules)
    assert (limits.tokens, limits.requests) == (tokens, requests)


def test_default_fraction_by_version() -> None:
    gpu_bytes = request(1000, "").gpu.memory_bytes
    difference = plan(1_000_000, "0.24.0").available_kv_bytes
    lower = plan(1_000_000, "0.24.0", "--gpu-memory-utilization=0.90").available_kv_bytes
    assert difference - lower == int(gpu_bytes * 0.92) - int(gpu_bytes * 0.90)


def test_graph_estimate_is_subtracted_from_0_20() -> None:
    compiled = plan(1_000_000, "0.24.0")
    off = plan(1_000_000, "0.24.0", "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=0")
    assert off.available_kv_bytes - compiled.available_kv_bytes == 502 * 2**20
    eager = plan(1_000_000, "0.24.0", "--enforce-eager")
    assert "CUDA graphs" not in eager.ledger
    # Eager ranks take nothing outside torch for compiled collectives either.
    assert eager.available_kv_bytes > off.available_kv_bytes
    one = plan(1_000_000, "0.19.0", "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=1")
    assert plan(1_000_000, "0.19.0").available_kv_bytes - one.available_kv_bytes == 502 * 2**20
    old = plan(1_000_000, "0.12.0", "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS=1")
    assert old.available_kv_bytes == plan(1_000_000, "0.12.0").available_kv_bytes


def test_kv_memory_by_hand_bypasses_the_fraction() -> None:
    answer = plan(1_000_000, "0.24.0", f"--kv-cache-memory-bytes={AVAILABLE}", "--gpu-memory-utilization=0.2")
    assert answer.available_kv_bytes == AVAILABLE
    blocks = plan(1_000_000, "0.24.0", "--num-gpu-blocks-override=979919")
    assert blocks.pools == {"token slots": 979_919 * 16}


class TestHybrid:
    def test_env_is_set_when_it_cures(self) -> None:
        answer = plan(10_000_000, "0.12.0", available_kv_bytes=AVAILABLE)
        assert answer.fits
        assert answer.env == {CHUNKED_HYBRID_ENV: "1"}
        assert answer.capacity_tokens == HYBRID

    def test_env_is_left_alone_when_not_needed(self) -> None:
        answer = plan(2_000_000, "0.12.0", available_kv_bytes=AVAILABLE)
        assert answer.fits
        assert answer.env == {}
        assert answer.capacity_tokens == FULL

    def test_env_given_is_obeyed(self) -> None:
        off = plan(10_000_000, "0.12.0", f"{CHUNKED_HYBRID_ENV}=0", available_kv_bytes=AVAILABLE)
        assert not off.fits
        on = plan(2_000_000, "0.12.0", f"{CHUNKED_HYBRID_ENV}=1", available_kv_bytes=AVAILABLE)
        assert on.capacity_tokens == HYBRID

    def test_on_by_default_from_0_14(self) -> None:
        assert plan(10_000_000, "0.14.0", available_kv_bytes=AVAILABLE).env == {}
        assert plan(10_000_000, "0.14.0", available_kv_bytes=AVAILABLE).fits

    @pytest.mark.parametrize(
        ("version", "flags", "who"),
        [
            ("0.12.0", {"--kv-events-config": "{}"}, "--kv-events-config"),
            ("0.24.0", {"--kv-events-config": "{}"}, ""),
            (
                "0.14.0",
                {"--kv-transfer-config": '{"kv_connector":"OffloadingConnector"}'},
                "OffloadingConnector",
            ),
            ("0.24.0", {"--kv-transfer-config": '{"kv_connector":"OffloadingConnector"}'}, ""),
            (
                "0.24.0",
                {"--kv-transfer-config": '{"kv_connector":"LMCacheConnectorV1"}'},
                "LMCacheConnectorV1",
            ),
            (
                "0.33.0",
                {"--kv-offloading-size": "64", "--kv-offloading-backend": "lmcache"},
                "LMCacheMPConnector",
            ),
            ("0.33.0", {"--speculative-config": '{"method":"eagle3"}'}, "speculative decoding"),
            ("0.33.0", {"--speculative-config": '{"method":"ngram"}'}, ""),
            ("0.33.0", {"--disable-hybrid-kv-cache-manager": None}, "--disable-hybrid-kv-cache-manager"),
        ],
    )
    def test_who_turns_it_off(self, version: str, flags: dict[str, str | None], who: str) -> None:
        asked = request(1_000_000, version, engine_flags={**flags, CHUNKED_HYBRID_ENV: "1"})
        state = hybrid_state(scout(), read_flags(asked, RULES[version]), RULES[version])
        assert state.on == (not who)
        assert who in state.off_because

    def test_connector_without_support_can_be_overruled_but_eagle_cannot(self) -> None:
        on = "--no-disable-hybrid-kv-cache-manager"
        kept = plan(1_000_000, "0.14.0", on, '--kv-transfer-config={"kv_connector":"X"}')
        assert kept.capacity_tokens > 10_000_000
        refused = plan(1_000_000, "0.24.0", on, '--speculative-config={"method":"eagle"}')
        assert not refused.starts
        assert "speculative decoding" in refused.reason


class TestRemarks:
    def has(self, answer: EnginePlan, text: str) -> bool:
        return any(text in warning for warning in answer.warnings)

    def notes(self, answer: EnginePlan, text: str) -> bool:
        """Whether a note says it, and no warning."""
        return any(text in note for note in answer.notes) and not self.has(answer, text)

    def test_fp8_is_not_needed_for_10m(self) -> None:
        answer = plan(10_000_000, "0.12.0", kv_dtype=KvDtype.FP8_E4M3, available_kv_bytes=AVAILABLE)
        assert self.notes(answer, "FP8 is not needed for 10,000,000 tokens")
        assert not self.notes(plan(10_000_000, "0.12.0"), "FP8 is not needed")

    def test_printed_size_is_not_the_longest_request(self) -> None:
        assert self.notes(plan(10_000_000, "0.12.0"), "the same with hybrid groups on and off")
        assert self.notes(plan(10_000_000, "0.24.0"), "changes when that flag does")
        assert not self.notes(plan(100_000, "0.12.0", model=load_model("llama-3.1-8b")), "KV cache size")

    def test_tp_does_not_multiply(self) -> None:
        assert self.notes(plan(10_000_000, "0.24.0"), "Do not multiply them by TP")
        assert not self.notes(plan(10_000, "0.24.0", model=load_model("qwen3-0.6b"), gpus=1, tp=1), "by TP")
        copies = plan(10_000, "0.24.0", model=load_model("qwen3-30b-a3b"))
        assert self.notes(copies, "above the 4 KV heads")
        assert self.notes(
            plan(10_000, "0.24.0", model=load_model("deepseek-v3")), "copy of the whole latent cache"
        )

    def test_architecture_no_version_lists(self) -> None:
        assert self.has(plan(100_000, "0.33.0", model=load_model("step-3.7-flash")), "planned as if vLLM")
        assert not self.has(plan(100_000, "0.33.0"), "planned as if vLLM")

    def test_first_group_check_of_0_14_lets_a_server_start_that_hangs(self) -> None:
        answer = plan(10_485_760, "0.14.0", available_kv_bytes=50 * GIB)
        assert answer.starts
        assert not answer.fits
        assert self.has(answer, "counts the first KV group only")
        refused = plan(10_485_760, "0.20.0", available_kv_bytes=50 * GIB)
        assert not refused.starts

    def test_block_tables(self) -> None:
        answer = plan(10_000_000, "0.24.0")
        assert answer.ledger["block tables"].bytes == 4 * 625_000 * 1024 * 4
        assert self.has(answer, "--max-num-seqs 8 makes them negligible")
        few = plan(10_000_000, "0.24.0", "--max-num-seqs=8")
        assert few.ledger["block tables"].bytes == 4 * 625_000 * 8 * 4
        assert not self.has(few, "block tables")

    def test_second_runner_needs_fewer_requests_at_10m(self) -> None:
        answer = plan(10_000_000, "0.33.0")
        assert answer.fits
        assert answer.flags[answer.flags.index("--max-num-seqs") + 1] == "256"
        assert self.has(answer, "this plan sets --max-num-seqs 256")
        by_hand = plan(10_000_000, "0.33.0", "--max-num-seqs=1024")
        assert not by_hand.starts
        assert "short while the server warms up" in by_hand.reason


class TestRefusals:
    def test_every_release_is_planned_by_its_own_rules(self) -> None:
        for version in ("0.9.2", "0.15.1", "0.19.0", "0.25.1", "0.30.0"):
            assert plan(1_000_000, version).version == version
        assert plan(1_000_000, "v0.19").version == "0.19.0"
        assert rules_for("0.19.0")[0].near_ratio == rules_for("0.18.1")[0].near_ratio == 1.5
        assert rules_for("0.17.1")[0].near_ratio == 1.25
        assert rules_for("0.16.0")[0].sampler_bytes > 2 * rules_for("0.17.0")[0].sampler_bytes
        assert rules_for("0.19.1")[0].default_utilization == 0.9
        assert rules_for("0.20.2")[0].default_utilization == 0.92

    @pytest.mark.parametrize(
        ("written", "release", "said"),
        [
            ("0.24.0rc2", "0.24.0", "vllm 0.24.0rc2 is planned as 0.24.0"),
            ("0.23.0.dev12+gabc123", "0.23.0", "vllm 0.23.0.dev12+gabc123 is planned as 0.23.0"),
            ("0.24.0+cu128", "0.24.0", ""),
            ("nightly", "0.33.0", "vllm nightly is planned by the newest rules"),
            ("0.35.1", "0.33.0", "vllm 0.35.1 is not known: planned as 0.33.0"),
            ("0.7.3", "0.9.0", "vllm 0.7.3 is older than farspan's rules: planned as 0.9.0"),
        ],
    )
    def test_other_versions_are_read_as_a_release(self, written: str, release: str, said: str) -> None:
        answer = plan(1_000_000, written)
        assert answer.version == release
        assert not said or said in answer.warnings

    def test_newest_is_the_default(self) -> None:
        assert plan(1_000_000, "").version == KNOWN_VERSIONS[-1]

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--pipeline-parallel-size=2",), "2 pipeline stages of 8 GPUs need 16"),
            (("--gpu-memory-utilisation=0.5",), "did you mean --gpu-memory-utilization"),
            (("--calculate-kv-scales",), "drop it: it went in 0.28.0"),
            (("--decode-context-parallel-size=2",), "needs full attention in every layer"),
            (("--tensor-parallel-size=4",), "contradicts --tp 8"),
            (("--gpu-memory-utilization=1.2",), "not above 0 and at most 1"),
            (("--gpu-memory-utilization=lots",), "is not a number"),
            (("--kv-cache-dtype=int4",), "not mirrored"),
            (("--kv-transfer-config=lmcache",), "is not JSON"),
            (("--calculate-kv-scales",), "has no --calculate-kv-scales"),
            (("--max-num-seqs=0",), "is not positive"),
            (("--max-num-seqs",), "needs a value"),
        ],
    )
    def test_flags(self, flags: tuple[str, ...], message: str) -> None:
        with pytest.raises(InputError, match=message):
            plan(1_000_000, "0.33.0", *flags)

    def test_calculate_kv_scales_existed(self) -> None:
        assert plan(1_000_000, "0.27.1", "--calculate-kv-scales").starts

    def test_architecture_of_a_later_version(self) -> None:
        answer = plan(100_000, "0.12.0", model=load_model("gemma-4-26b-a4b"))
        assert not answer.starts
        assert "0.19.0 does" in answer.reason

    def test_above_the_models_maximum(self) -> None:
        answer = plan(11_000_000, "0.24.0")
        assert not answer.starts
        assert "10,485,760 positions" in answer.reason

    def test_gpu_too_small(self) -> None:
        answer = plan(100_000, "0.24.0", gpu=find_gpu("L4"))
        assert not answer.starts
        assert "leaves no memory for cache blocks" in answer.reason
        assert answer.capacity_tokens == 0

    def test_max_model_len_below_the_context(self) -> None:
        answer = plan(2_000_000, "0.24.0", "--max-model-len=1000000")
        assert answer.starts
        assert not answer.fits
        assert "below the 2,000,000 tokens" in answer.reason

    def test_more_requests_than_max_num_seqs(self) -> None:
        answer = plan(100_000, "0.24.0", "--max-num-seqs=4", concurrency=5)
        assert not answer.fits
        assert "--max-num-seqs 4 is below 5 requests" in answer.reason


def layout_of(model: str, version: str, **changes: Any) -> VllmKvLayout:
    settings = {"tp": 1, "kv_dtype": KvDtype.AUTO, "block_size": 16, "hybrid": True, "prefix_caching": True}
    return kv_layout(load_model(model, allow_network=False), RULES[version], **{**settings, **changes})


def test_window_layers_choose_their_own_block_in_0_27_and_0_29() -> None:
    """A token of a sliding layer of Gemma 4 takes as much as two of a full layer."""
    old = layout_of("gemma-4-26b-a4b", "0.29.0", block_size=32)
    new = layout_of("gemma-4-26b-a4b", "0.33.0", block_size=32)
    assert {group.spec.block_size for group in old.groups} == {16, 32}
    assert {group.spec.block_size for group in new.groups} == {32, 64}


def test_prefix_caching_keeps_a_second_state() -> None:
    states = [
        sum(group.blocks(1, 0) for group in layout_of("qwen3.5-27b", "0.33.0", prefix_caching=on).groups)
        for on in (False, True)
    ]
    assert states[1] - states[0] == 3  # 48 recurrent layers beside 16 full ones: three groups
    assert read_prefix_caching("0.24.0") == (False, True)
    assert read_prefix_caching("0.33.0") == (True, True)


def read_prefix_caching(version: str) -> tuple[bool, bool]:
    """Whether prefix caching is on by default for a recurrent model, and for Scout."""
    recurrent = request(1000, version, model=load_model("qwen3.5-27b", allow_network=False))
    rules = RULES[version]
    return tuple(
        prefix_caching(asked.model, read_flags(asked, rules), rules)
        for asked in (recurrent, request(1000, version))
    )  # type: ignore[return-value]


def test_latent_blocks_beside_recurrent_layers_are_multiples_of_128() -> None:
    assert layout_of("kimi-k3", "0.33.0", tp=8).block_size % 128 == 0


def test_auto_max_model_len() -> None:
    answer = plan(5_000_000, "0.24.0", "--max-model-len=auto", available_kv_bytes=40 * GIB)
    assert answer.starts
    length = int(answer.flags[answer.flags.index("--max-model-len") + 1])
    assert length == pytest.approx(answer.capacity_tokens, abs=16)
    with pytest.raises(InputError, match="has no --max-model-len auto"):
        plan(5_000_000, "0.12.0", "--max-model-len=auto")


def test_flags_are_passed_through() -> None:
    answer = plan(1_000_000, "0.24.0", "--gpu-memory-utilization=0.85", "--enable-prefix-caching", tp=8)
    assert answer.flags == (
        *("--tensor-parallel-size", "8", "--max-model-len", "1000000"),
        *("--gpu-memory-utilization", "0.85", "--enable-prefix-caching"),
    )


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
def test_capacity_is_exact(version: str) -> None:
    """One token more than the capacity does not fit, the capacity itself does."""
    longest = plan(1_000_000, version, available_kv_bytes=40 * GIB).capacity_tokens
    assert plan(longest, version, available_kv_bytes=40 * GIB).fits or version in ("0.12.0", "0.13.0")
    assert not plan(longest + 17, version, f"{CHUNKED_HYBRID_ENV}=0", available_kv_bytes=40 * GIB).fits


@pytest.mark.parametrize("model", ["llama-4-scout", "gpt-oss-120b", "deepseek-v3.2", "qwen3.5-27b"])
def test_ledger_adds_up(model: str) -> None:
    spec: ModelSpec = load_model(model, allow_network=False)
    answer = plan(100_000, "0.24.0", model=spec)
    ledger = answer.ledger
    assert ledger.gpu_bytes == sum(ledger.totals().values())
    assert ledger.free_bytes > 0
    assert ledger["KV pool"].bytes <= answer.available_kv_bytes < ledger["KV pool"].bytes + 2**27
    loaded = ("weights", "RoPE tables", "rounding by torch's allocator")
    assert sum(line.bytes for line in ledger if line.name in loaded) == answer.weights_bytes
    assert ledger.phase_bytes(LedgerPhase.RUNTIME) == 0
    assert {line.basis for line in ledger} == set(Basis)
    assert all(line.formula and line.source for line in ledger)


def test_outline_is_the_plan_without_its_ledger() -> None:
    asked = request(5_000_000, "0.24.0")
    full, outline = plan_vllm(asked), outline_vllm(asked)
    assert len(outline.ledger) == 0
    for name in ("starts", "fits", "reason", "capacity_tokens", "max_concurrency", "printed", "flags", "env"):
        assert getattr(full, name) == getattr(outline, name)


def test_weight_offload_moves_bytes_from_the_gpu_to_the_host() -> None:
    plain, moved = plan(1_000_000, "0.24.0"), plan(1_000_000, "0.24.0", "--cpu-offload-gb=8")
    assert plain.weights_bytes - moved.weights_bytes == 8 * GIB
    assert moved.available_kv_bytes - plain.available_kv_bytes == 8 * GIB
    assert moved.ledger["weights kept in RAM"].bytes == 8 * GIB
    assert moved.ledger["weights kept in RAM"].on_host
    assert moved.ledger.free_bytes == pytest.approx(plain.ledger.free_bytes, abs=2**22)
    assert any("over PCIe" in note for note in moved.notes)
    # The embedding and the output head stay: no more than the layers' weights can go.
    everything = plan(1_000_000, "0.24.0", "--cpu-offload-gb=1000")
    assert everything.weights_bytes > 2 * GIB
    with pytest.raises(InputError, match="not a memory size"):
        plan(1_000_000, "0.24.0", "--cpu-offload-gb=-1")


@pytest.mark.parametrize(("version", "starts"), [("0.12.0", False), ("0.14.0", False), ("0.20.0", True)])
def test_weight_offload_needed_one_kv_group_before_0_20(version: str, starts: bool) -> None:
    hybrid = plan(1_000_000, version, "--cpu-offload-gb=8", f"{CHUNKED_HYBRID_ENV}=1")
    assert hybrid.starts == starts
    assert starts or "one KV group" in hybrid.reason
    assert plan(1_000_000, version, "--cpu-offload-gb=8", "--disable-hybrid-kv-cache-manager").starts


def test_kv_offload_takes_host_memory_and_raises_no_request() -> None:
    plain, tiered = plan(1_000_000, "0.24.0"), plan(1_000_000, "0.24.0", "--kv-offloading-size=800")
    assert tiered.capacity_tokens == plain.capacity_tokens
    assert tiered.ledger["finished KV kept in RAM"].bytes == 100 * GIB
    assert any("does not raise the longest request" in note for note in tiered.notes)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--enable-eplb", None, "redundant experts"),
        ("--disable-sliding-window", None, "keep every token"),
        ("--mamba-cache-dtype", "float32", "recurrent states of another type"),
        ("--offload-backend", "prefetch", "prefetching weight offload"),
        ("--quantization", "bitsandbytes", "plan that checkpoint with --weights fp8"),
    ],
)
def test_what_changes_memory_unmirrored_is_refused_by_name(
    flag: str, value: str | None, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        plan_vllm(request(100_000, "0.33.0", engine_flags={flag: value}))
    assert flag in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--dtype", "half"),
        ("--dtype", "auto"),
        ("--offload-backend", "auto"),
        ("--mamba-cache-dtype", "auto"),
    ],
)
def test_the_same_flags_at_what_vllm_does_anyway_are_passed_on(flag: str, value: str) -> None:
    plan = plan_vllm(request(100_000, "0.33.0", engine_flags={flag: value}))
    assert plan.fits
    assert plan.flags[-2:] == (flag, value)


def test_a_quantized_checkpoint_may_say_so() -> None:
    asked = replace(
        request(100_000, "0.33.0"), model=load_model("deepseek-v3.2"), engine_flags={"--quantization": "fp8"}
    )
    assert plan_vllm(asked).ledger == plan_vllm(replace(asked, engine_flags={})).ledger


def test_the_fraction_has_two_spellings() -> None:
    one = plan_vllm(request(100_000, "0.33.0", engine_flags={"--gpu-memory-utilization": "0.5"}))
    other = plan_vllm(request(100_000, "0.33.0", engine_flags={"--device-memory-utilization": "0.5"}))
    assert one.available_kv_bytes == other.available_kv_bytes
    assert one.available_kv_bytes < plan_vllm(request(100_000, "0.33.0")).available_kv_bytes


def test_a_fraction_given_by_hand_does_not_keep_the_plan_from_lowering_requests() -> None:
    answer = plan(10_000_000, "0.33.0", "--gpu-memory-utilization=0.91")
    assert answer.fits
    assert any(added.startswith("--max-num-seqs") for added in answer.added)
    assert not plan(10_000_000, "0.33.0", "--gpu-memory-utilization=0.91", as_given=True).starts


def test_eager_steps_are_bound_by_launches() -> None:
    eager, compiled = plan(1_000_000, "0.24.0", "--enforce-eager").time, plan(1_000_000, "0.24.0").time
    assert eager is not None
    assert compiled is not None
    assert 0.068 <= eager.itl_expected_s <= 0.088
    assert compiled.itl_expected_s < 0.03
    assert "eager" in eager.basis


def test_pipeline_stages_share_layers_and_the_last_one_samples() -> None:
    model = load_model("llama-3.1-8b", allow_network=False)
    flags: dict[str, str | None] = {"--pipeline-parallel-size": "2", "--gpu-memory-utilization": "0.95"}
    asked = PlanRequest(model, find_gpu("H100"), 2, 1, 8192, engine_version="0.19.0", engine_flags=flags)
    two, one = plan_vllm(asked), plan_vllm(replace(asked, engine_flags={"--gpu-memory-utilization": "0.95"}))
    # A public server printed 66.54 GiB on its first stage and a cache of 1,075,312 tokens.
    assert two.available_kv_bytes / 2**30 == pytest.approx(66.54, abs=0.3)
    assert two.printed["GPU KV cache size"] == pytest.approx(1_075_312, rel=0.005)
    assert two.capacity_tokens > 2 * one.capacity_tokens
    with pytest.raises(InputError, match="2 pipeline stages of 1 GPUs need 2, and there are 1"):
        plan_vllm(replace(asked, gpus=1))


def test_context_ranks_share_the_tokens_of_a_latent_cache() -> None:
    model = load_model("deepseek-v3", allow_network=False)
    asked = PlanRequest(model, H200, 8, 8, 100_000, engine_version="0.33.0")
    whole = plan_vllm(asked)
    shared = plan_vllm(replace(asked, engine_flags={"--decode-context-parallel-size": "8"}))
    assert shared.capacity_tokens == pytest.approx(8 * whole.capacity_tokens, rel=0.01)
    with pytest.raises(InputError, match="does not fit TP 8 over 1 KV heads"):
        plan_vllm(replace(asked, engine_flags={"--decode-context-parallel-size": "3"}))


def test_a_dtype_and_online_fp8_change_the_weights() -> None:
    model = load_model("llama-3.1-8b", allow_network=False)
    asked = PlanRequest(model, find_gpu("H100"), 1, 1, 8192, engine_version="0.19.0")
    changes: dict[str, dict[str, str | None]] = {
        "own": {},
        "float32": {"--dtype": "float32"},
        "fp8": {"--quantization": "fp8"},
    }
    sizes = {
        name: plan_vllm(replace(asked, engine_flags=flags)).weights_bytes / 2**30
        for name, flags in changes.items()
    }
    # As printed by public servers of 0.19.0.
    assert sizes == pytest.approx({"own": 14.99, "float32": 29.98, "fp8": 8.49}, abs=0.03)


def test_a_draft_layer_takes_weights_and_kv() -> None:
    model = load_model("llama-3.1-8b", allow_network=False)
    asked = PlanRequest(model, find_gpu("H100"), 1, 1, 8192, engine_version="0.19.0")
    draft: dict[str, str | None] = {
        "--speculative-config": '{"method": "eagle3", "num_speculative_tokens": 3}'
    }
    with_draft = plan_vllm(replace(asked, engine_flags=draft))
    assert with_draft.weights_bytes > plan_vllm(asked).weights_bytes
    assert any("(assumed)" in note for note in with_draft.notes)
    unread: dict[str, str | None] = {"--speculative-config": '{"method": "medusa", "model": "x"}'}
    with pytest.raises(UnsupportedError, match="loads a draft that farspan does not read"):
        plan_vllm(replace(asked, engine_flags=unread))


def _drafting(**settings: object) -> dict[str, str | None]:
    return {"--speculative-config": json.dumps({"num_speculative_tokens": 4, **settings})}


def test_a_draft_model_is_counted_whole() -> None:
    target, draft = (load_model(name, allow_network=False) for name in ("llama-3.1-70b", "llama-3.1-8b"))
    asked = PlanRequest(target, find_gpu("H100"), 4, 4, 32_000, engine_version="0.24.0")
    alone = plan_vllm(asked)
    drafting = plan_vllm(asked.with_flags(_drafting(model="llama-3.1-8b")))
    more = drafting.ledger["weights"].bytes - alone.ledger["weights"].bytes
    assert more == rank_weight_bytes(draft, 4).total
    # One pool for both: 80 and 32 layers of 2 KV heads a rank, 128 x 2 x 2 B.
    assert drafting.request_kv_bytes == (80 + 32) * 2 * 512 * 32_000
    assert "llama-3.1-8b keeps its own KV" in drafting.request_kv_reason
    assert any("counted whole" in note for note in drafting.notes)
    assert drafting.capacity_tokens < alone.capacity_tokens


@pytest.mark.parametrize(
    ("version", "settings", "message"),
    [
        ("0.14.0", {"model": "llama-3.1-8b"}, "does not draft with a whole model"),
        ("0.24.0", {"model": "nobody/nothing"}, "neither in the catalog nor on this machine"),
        ("0.24.0", {"model": "qwen3-0.6b"}, "a vocabulary of"),
        ("0.24.0", {"model": "llama-3.1-8b", "draft_tensor_parallel_size": 1}, "wants a draft model's equal"),
    ],
)
def test_drafts_that_vllm_refuses_or_nobody_can_read(
    version: str, settings: dict[str, object], message: str
) -> None:
    target = load_model("llama-3.1-70b", allow_network=False)
    asked = PlanRequest(target, find_gpu("H100"), 4, 4, 32_000, engine_version=version)
    with pytest.raises(InputError, match=message):
        plan_vllm(asked.with_flags(_drafting(**settings)))


def test_the_method_is_told_from_the_name() -> None:
    model = load_model("llama-3.1-8b", allow_network=False)
    asked = PlanRequest(model, find_gpu("H100"), 1, 1, 8192, engine_version="0.24.0")
    named = plan_vllm(asked.with_flags(_drafting(model="yuhuili/EAGLE3-LLaMA3.1-Instruct-8B")))
    assert any("(assumed)" in note for note in named.notes)
    assert (
        plan_vllm(asked.with_flags(_drafting(model="ngram"))).weights_bytes == plan_vllm(asked).weights_bytes
    )


# A model of two layers under vLLM 0.32.0's own LoRAModelManager, 3 adapters of rank 16 in bf16, on a CPU.
TINY = {
    "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512, "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}  # fmt: skip
SEEN = [
    ("LlamaForCausalLM", "llama", False, 552_960),
    ("LlamaForCausalLM", "llama", True, 552_960),
    ("Qwen2ForCausalLM", "qwen2", False, 430_080),
    ("Qwen2ForCausalLM", "qwen2", True, 430_080),
    ("Qwen3ForCausalLM", "qwen3", False, 552_960),
    ("Qwen3ForCausalLM", "qwen3", True, 552_960),
    ("MistralForCausalLM", "mistral", False, 430_080),
    ("GraniteForCausalLM", "granite", False, 552_960),
    ("Exaone4ForCausalLM", "exaone4", False, 552_960),
]


@pytest.mark.parametrize(("architecture", "kind", "tied", "seen"), SEEN)
def test_buffers_of_lora_are_as_vllm_makes_them(
    tmp_path: Path, architecture: str, kind: str, tied: bool, seen: int
) -> None:
    config = {**TINY, "architectures": [architecture], "model_type": kind, "tie_word_embeddings": tied}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = load_model(str(tmp_path), allow_network=False)
    asked = PlanRequest(model, find_gpu("H100"), 1, 1, 256, engine_version="0.32.0")
    flags: dict[str, str | None] = {"--enable-lora": None, "--max-loras": "3", "--max-lora-rank": "16"}
    assert plan_vllm(asked.with_flags(flags)).weights_bytes - plan_vllm(asked).weights_bytes == seen


def test_lora_of_a_rank_and_what_is_refused() -> None:
    model = load_model("llama-3.1-70b", allow_network=False)
    asked = PlanRequest(model, find_gpu("H100"), 8, 8, 32_000, engine_version="0.24.0")
    flags: dict[str, str | None] = {"--enable-lora": None, "--max-loras": "4", "--max-lora-rank": "64"}
    alone, adapted = plan_vllm(asked), plan_vllm(asked.with_flags(flags))
    # Columns read the whole hidden state on every rank, rows write it; vocabulary and embedding are not divided.
    hidden, heads, keys, mlp = 8192, 1024, 2 * 128, 28672 // 8
    layer = 5 * hidden + heads + keys + 2 * mlp + heads + mlp + 2 * hidden
    expected = 4 * 64 * 2 * (80 * layer + 2 * (128_256 + hidden))
    assert adapted.weights_bytes - alone.weights_bytes == expected
    assert "LoRA buffers" in adapted.ledger["weights"].formula
    assert adapted.ledger["CUDA graphs"].bytes > alone.ledger["CUDA graphs"].bytes
    sharded = plan_vllm(asked.with_flags({**flags, "--fully-sharded-loras": None}))
    assert sharded.weights_bytes < adapted.weights_bytes
    refusals: list[tuple[dict[str, str | None], str, str]] = [
        ({"--max-lora-rank": "17"}, "0.24.0", "is refused by vLLM"),
        ({"--lora-target-modules": "q_proj"}, "0.24.0", "which layers take adapters"),
        ({}, "0.23.0", "has buffers in layers"),
        ({"--speculative-config": '{"method": "ngram"}'}, "0.24.0", "beside pipeline stages or speculative"),
    ]
    for more, version, message in refusals:
        with pytest.raises(InputError, match=message):
            plan_vllm(replace(asked, engine_version=version).with_flags({**flags, **more}))
    with pytest.raises(UnsupportedError, match="not for MixtralForCausalLM"):
        plan_vllm(replace(asked, model=load_model("mixtral-8x7b", allow_network=False)).with_flags(flags))


def test_an_eagle_3_head_by_its_own_config(tmp_path: Path) -> None:
    # The published head of Llama 3.1 8B: 8 KV heads, a vocabulary of its own.
    head = {
        "architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "hidden_size": 4096,
        "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 1,
        "vocab_size": 128256, "draft_vocab_size": 32000,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(head), encoding="utf-8")
    asked = PlanRequest(load_model("llama-3.1-8b", allow_network=False), find_gpu("H100"), 1, 1, 32_000,
                        engine_version="0.24.0")  # fmt: skip
    alone = plan_vllm(asked)
    drafting = plan_vllm(asked.with_flags(_drafting(method="eagle3", model=str(tmp_path))))
    attention = (4096 + 2 * 1024) * 8192 + 4096 * 4096
    expected = attention + 3 * 4096 * 14336 + 3 * 4096 * 4096 + 32_000 * 4096
    assert drafting.ledger["weights"].bytes - alone.ledger["weights"].bytes == 2 * expected
    assert drafting.request_kv_bytes == 33 * 4096 * 32_000
    assert any("by its own config" in note for note in drafting.notes)
    # EAGLE reads two hidden states, and shares the output head.
    first = plan_vllm(asked.with_flags(_drafting(method="eagle", model=str(tmp_path))))
    attention = (4096 + 2 * 1024) * 4096 + 4096 * 4096
    expected = attention + 3 * 4096 * 14336 + 2 * 4096 * 4096
    assert first.ledger["weights"].bytes - alone.ledger["weights"].bytes == 2 * expected
    (tmp_path / "config.json").write_text(
        json.dumps({**head, "architectures": ["MedusaModel"]}), encoding="utf-8"
    )
    other = asked.with_flags(_drafting(method="eagle3", model=str(tmp_path), num_speculative_tokens=2))
    with pytest.raises(UnsupportedError, match="is MedusaModel, which farspan does not mirror"):
        plan_vllm(other)
