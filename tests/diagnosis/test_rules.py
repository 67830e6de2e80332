"""Every rule fires on its own log and on no other; every rule has a log that looks alike and is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan.diagnosis.diagnose import Report
from farspan.diagnosis.examine import examine
from farspan.diagnosis.knowledge import all_rules, knowledge
from farspan.diagnosis.report_json import report_object
from farspan.engines.logs.findings import Severity
from farspan.engines.logs.log_line import LineParser
from wordings import LOOK_ALIKES, WORDINGS

EVIDENCE = Path(__file__).parents[1] / "evidence"
RULES = all_rules()
IDS = sorted(rule.id for rule in RULES)
# Logs in which more than their own rule, or another rule, speaks. All others: their own alone, or none at all.
ALSO: dict[str, list[str]] = {
    # The request that hangs does so because the server had started with less than one request of room.
    "vllm-request-stuck": ["vllm-request-stuck", "vllm-concurrency-below-one"],
    # Out of memory while serving looks like out of memory while starting.
    "cuda-oom-starting.not": ["cuda-oom-serving"],
    "sglang-pool-oom.not": ["cuda-oom-serving"],
    # A doubled entrypoint and an unknown flag differ in what is not recognised.
    "unknown-flag.not": ["vllm-entrypoint-doubled"],
    "vllm-entrypoint-doubled.not": ["unknown-flag"],
    # A start that was ended is not one whose log merely ends.
    "start-unfinished.not": ["stopped-while-starting"],
}
# Failures that are no exception of a start: `test_states.py` has their logs.
BY_HAND = {
    "bad-flag-value", "client-disconnected", "stopped-unserved", "stopped-while-starting", "vllm-worker-ended",
}  # fmt: skip


def _report(name: str) -> Report:
    return examine([(EVIDENCE / f"{name}.log").read_bytes()])


def _names() -> list[str]:
    return sorted(path.name.removesuffix(".log") for path in EVIDENCE.glob("*.log"))


def test_every_rule_has_a_log_and_a_look_alike_and_no_log_is_without_a_rule() -> None:
    assert {name.removesuffix(".not") for name in _names()} <= set(IDS)
    logged = {name for name in IDS if {name, f"{name}.not"} <= set(_names())}
    assert set(IDS) == logged | (set(WORDINGS) & set(LOOK_ALIKES)) | (BY_HAND & set(LOOK_ALIKES))
    assert len(IDS) == len(set(IDS)) >= 60


@pytest.mark.parametrize("name", _names())
def test_what_is_found_in_each_log(name: str) -> None:
    found = [finding.id for finding in _report(name).findings]
    own = [] if name.endswith(".not") else [name]
    assert found == ALSO.get(name, own)


@pytest.mark.parametrize("name", [name for name in IDS if name in _names()])
def test_a_finding_can_be_acted_on(name: str) -> None:
    report = _report(name)
    finding = next(one for one in report.findings if one.id == name)
    lines = (EVIDENCE / f"{name}.log").read_text().split("\n")
    assert len(finding.cause) > 20
    assert finding.cause.endswith(".")
    assert finding.fix
    assert all(step and not step.endswith(".") for step in finding.fix)
    assert 1 <= finding.evidence.line <= len(lines)
    assert finding.evidence.text
    json.dumps(report_object(report))


@pytest.mark.parametrize("name", sorted(rule.id for rule in knowledge().rules if rule.id in _names()))
def test_the_evidence_is_the_line_it_names(name: str) -> None:
    finding = next(one for one in _report(name).findings if one.id == name)
    line = (EVIDENCE / f"{name}.log").read_text().split("\n")[finding.evidence.line - 1]
    rule = next(one for one in knowledge().rules if one.id == name)
    assert finding.evidence.text == line[:1000]
    assert rule.pattern.search(LineParser().parse(1, line.encode()).text)


def test_sources_are_named() -> None:
    cited = {source for rule in RULES for source in rule.sources if "#" in source}
    engines = {source for source in cited if source.startswith(("vllm-project/vllm#", "sgl-project/sglang#"))}
    assert len(engines) >= 40
    assert {rule.id for rule in RULES if not rule.sources} <= {"first-error", "start-unfinished"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sglang-pool-oom", ["--max-running-requests 8", "0.30 GiB"]),
        ("sglang-graph-tables-oom", ["512 requests x 2,097,152 tokens", "--max-running-requests 8"]),
        ("vllm-sampler-warmup-oom", ["1,024 dummy requests", "--gpu-memory-utilization 0.90"]),
        ("fp8-e5m2-asserts", ["--kv-cache-dtype fp8_e4m3", "is not the reason"]),
        ("vllm-concurrency-below-one", ["3,919,664", "--max-model-len 3919664"]),
        ("vllm-request-stuck", ["about 3,905,945 tokens", "will never start"]),
        ("vllm-free-memory", ["hold 15.9 GiB", "--gpu-memory-utilization 0.66"]),
        ("sglang-not-enough-memory", ["fraction of 0.58", "--mem-fraction-static 0.68"]),
        ("sglang-request-table", ["16.0 GiB", "--max-running-requests 8"]),
        ("heads-not-divisible", ["28 cannot be split", "--tensor-parallel-size 7"]),
        ("unknown-flag", ["gone from vLLM 0.29"]),
        ("vllm-hybrid-off", ["VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE=1"]),
        ("sglang-prefix-tree", ["each of the 256 chunks", "--chunked-prefill-size 131072"]),
        ("first-error", ["KeyError: 'layers.0.self_attn", "scout.py: load_weights", "Worker_TP1"]),
        ("open-to-strangers", ["3 requests of 2 public addresses", "8.8.4.4", "No API key"]),
    ],
)  # fmt: skip
def test_the_numbers_are_said(name: str, words: list[str]) -> None:
    finding = next(one for one in _report(name).findings if one.id == name)
    said = " ".join((finding.cause, *finding.fix))
    for word in words:
        assert word in said


def test_the_planner_is_asked() -> None:
    """The fix comes with what the memory model of that version expects of it."""
    text = (EVIDENCE / "vllm-context-too-long.log").read_text()
    text = text.replace(
        "'max_model_len': 20000000", "'max_model_len': 5242880, 'disable_hybrid_kv_cache_manager': True"
    )
    text = text.replace("20000000", "5242880").replace("15629504", "3919664").replace("0.12.0", "0.24.0")
    (finding,) = examine([text.encode()]).findings
    assert any(
        "no --disable-hybrid-kv-cache-manager" in step and "2.96 of 5,242,880" in step for step in finding.fix
    )


def test_the_worst_comes_first() -> None:
    for name in _names():
        severities = [finding.severity for finding in _report(name).findings]
        assert severities == sorted(severities, key=list(Severity).index)


def test_out_of_memory_while_serving_names_the_flags_of_the_engine_or_of_all() -> None:
    failure = (EVIDENCE / "cuda-oom-serving.log").read_bytes()
    (found,) = [one for one in examine([failure]).findings if one.id == "cuda-oom-serving"]
    assert found.fix[0] == "--gpu-memory-utilization 0.90: leaves more for activations"
    assert not any("--mem-fraction-static" in step for step in found.fix)
    nameless = b"Application startup complete.\n" + b"".join(
        line.split(b"] ", 1)[-1] for line in failure.splitlines(keepends=True)[3:]
    )
    (found,) = [one for one in examine([nameless]).findings if one.id == "cuda-oom-serving"]
    assert {step.split(":")[0] for step in found.fix} >= {
        "--gpu-memory-utilization 0.85",
        "a lower --mem-fraction-static",
    }
