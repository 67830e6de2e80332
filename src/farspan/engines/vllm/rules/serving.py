"""vLLM while it serves: requests refused, preempted or stuck, steps that take too long, rates misread."""

from __future__ import annotations

import re

from farspan.engines.logs.findings import Confidence, Evidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.rates import LOG_INTERVAL_S
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, StateRule, known
from farspan.engines.logs.server_state import ServerState
from farspan.engines.vllm.rules.longest_request import longest_request

_PROMPT_TOO_LONG = compile_pattern(
    r"maximum context length is (?P<most>\d+) tokens(?:.{0,200}?requested (?P<output>\d+) output tokens.{0,80}?"
    r"(?:contains at least|contains|has) (?P<input>\d+)|.{0,200}?(?:you )?requested (?P<all>\d+) tokens"
    r"(?: \((?P<prompt>\d+) in the (?:messages|prompt), (?P<completion>\d+) in the completion)?"
    r"|.{0,200}?(?:request has|prompt contains at least|contains at least|requested) (?P<asked>\d+))?"
    r"|prompt \(length (?P<length>\d+)\).{0,80}? is longer than the maximum model length of (?P<limit>\d+)"
    r"|'max_(?:completion_)?tokens' or 'max_tokens' is too large: (?P<large>\d+)"
)


def _count(match: re.Match[str], *names: str) -> int | None:
    return next((int(match[name]) for name in names if match[name] is not None), None)


def _prompt_too_long(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    match = rule_match.match
    most = _count(match, "most", "limit") or server_state.context or 0
    output, prompt = (
        _count(match, "output", "completion", "large"),
        _count(match, "input", "prompt", "length"),
    )
    whole = _count(match, "all", "asked")
    longer = (
        f"a --max-model-len above {most}: `farspan plan MODEL --engine vllm --find context` says how "
        f"far it can go"
        if most
        else "a larger --max-model-len"
    )
    if output is not None and prompt is not None and prompt < most and output > most // 8:
        return Diagnosis(
            f"Refused with 400: the prompt ({prompt:,} tokens) fits the {most:,} the server takes, "
            f"but the client also reserves "
            f"{output:,} tokens for the answer (max_tokens), and both together do not.",
            (
                f"a lower max_tokens in the client: {most - prompt:,} are left for this prompt; "
                f"leave it out and the server takes "
                "what is left",
                f"or {longer}",
            ),
        )
    asked = prompt or whole
    said = f" One had {asked:,}." if asked else ""
    return Diagnosis(
        f"Requests longer than the {most:,} tokens the server takes (prompt and answer together) "
        f"were refused with 400.{said}",
        ("shorten the prompt (images count too) or max_tokens", f"or {longer}"),
    )


PROMPT_TOO_LONG = Rule(
    id="prompt-too-long",
    means="vLLM refused a prompt longer than --max-model-len.",
    severity=Severity.WARNING,
    pattern=_PROMPT_TOO_LONG,
    explain=_prompt_too_long,
    sources=(
        "vllm entrypoints/openai/serving_engine.py",
        "vllm v1/engine/input_processor.py",
        "ruipeterpan/specreason#4",
    ),
)


def _preempted(server_state: ServerState) -> Diagnosis | None:
    count, line = server_state.rates.preemptions
    if not count:
        return None
    return Diagnosis(
        f"{count} requests were preempted: the KV cache was full, and what they had computed is "
        f"computed again. With "
        "long prompts that costs minutes each.",
        (
            "--max-num-seqs N with N the concurrency the log gives for your prompt length, so that no "
            "more start than fit",
            "or more KV cache: --kv-cache-dtype fp8_e4m3, a larger --tensor-parallel-size",
        ),
        evidence=Evidence(line, f"Preemptions: {count}"),
    )


PREEMPTED = StateRule(
    id="vllm-preempted",
    means="Requests are thrown out and computed again, because the KV cache is full.",
    severity=Severity.WARNING,
    look=_preempted,
    sources=("vllm-project/vllm#18115", "vllm v1/metrics/loggers.py"),
)


PREEMPTED_V0 = known(
    "vllm-preempted-v0",
    "The same in words of vLLM's first engine.",
    r"is preempted by PreemptionMode\.\w+ mode because there is not enough KV cache space",
    "Requests are preempted: the KV cache is full, and what they had computed is computed again.",
    "lower --max-num-seqs so that no more requests start than fit",
    sources=("vllm-project/vllm#11805",),
    severity=Severity.WARNING,
)


_LINES = 2


def _request_stuck(server_state: ServerState) -> Diagnosis | None:
    stuck = server_state.rates.worst_stuck
    if stuck is None or stuck.lines < _LINES:
        return None
    since = ""
    if stuck.since is not None and stuck.until is not None:
        since = f" for at least {stuck.until - stuck.since:.0f} s"
    ratio, length = server_state.figures.get("max_concurrency"), server_state.figures.get("max_model_len")
    small = ratio is not None and ratio < 1
    who = "1 request waits" if stuck.waiting == 1 else f"{stuck.waiting} requests wait"
    cause = f"{who}{since} while nothing runs"
    encoder = server_state.figures.get("encoder_tokens")
    roomy = ratio is not None and ratio >= 1
    if small and ratio is not None and length is not None:
        holds = longest_request(server_state) or int(ratio * length)
        cause += (
            f": the KV cache holds about {holds:,} tokens and the request is longer. It will never start."
        )
    elif roomy and encoder and not stuck.peak_usage:
        cause += (
            f", and the KV cache is empty and has room for {ratio:.2f} requests of the longest "
            f"length: it is not the KV cache. An image or "
            f"video larger than the encoder cache ({encoder:,.0f} tokens) waits for room that never comes."
        )
        return Diagnosis(
            cause,
            (
                "send a smaller item: fewer frames or pixels (--mm-processor-kwargs "
                "'{\"max_pixels\": ...}', or fps and num_frames in the "
                "request)",
                f"or a larger encoder budget: --max-num-batched-tokens above {encoder:.0f}, which sizes it",
                "newer versions refuse such an item at once instead of waiting",
            ),
            Confidence.STRONG,
            evidence=Evidence(stuck.line, f"Running: 0 reqs, Waiting: {stuck.waiting} reqs", stuck.lines),
        )
    elif roomy:
        cause += (
            ", though the KV cache has room for a request of the longest length: it waits for "
            "something else (a grammar that is compiled, "
            "KV from another server, an adapter)."
        )
    else:
        cause += ": most likely the request is longer than the KV cache can hold, and will never start."
    fix = ["cancel the request (the server recovers), and send one that fits"]
    if roomy:
        fix.append(
            "`farspan doctor --url URL` looks at the running server; py-spy dump of the engine "
            "process shows what it waits for"
        )
    elif server_state.version_below("0.14.0") is not False:
        fix.append(
            "leave hybrid KV groups on (VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE=1 up to 0.13; never "
            "--disable-hybrid-kv-cache-manager), or lower --max-model-len so that such a request is "
            "refused at once"
        )
    else:
        fix.append(
            "drop --disable-hybrid-kv-cache-manager where set, or lower --max-model-len so that it "
            "is refused at once"
        )
    evidence = Evidence(stuck.line, f"Running: 0 reqs, Waiting: {stuck.waiting} reqs", stuck.lines)
    return Diagnosis(cause, tuple(fix), Confidence.STRONG if small else Confidence.LIKELY, evidence=evidence)


REQUEST_STUCK = StateRule(
    id="vllm-request-stuck",
    means="A request waits while nothing runs: it is larger than the KV cache can ever hold.",
    severity=Severity.ERROR,
    look=_request_stuck,
    sources=("vllm-project/vllm#39734", "observed on vllm 0.12.0"),
)


def _step_timeout(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    method = rule_match.match["method"]
    batch = server_state.number("max_num_batched_tokens")
    several = (server_state.number("nnodes", "pipeline_parallel_size", "data_parallel_size") or 1) > 1
    ray = server_state.text("distributed_executor_backend") == "ray"
    cause = (
        f"A worker did not finish {method} within VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS (300 s): one "
        f"step hung, or one "
        "prefill chunk at the far end of a very long prompt takes that long."
    )
    fix = [
        "look for the first error of a worker above: when one rank dies or hangs in NCCL, the others "
        "wait; `py-spy dump --pid PID` of "
        "each worker, on every node, shows the one that hangs and where",
        "NCCL_DEBUG=INFO shows the collective that does not finish"
        + (
            "; between nodes NCCL_SOCKET_IFNAME and NCCL_IB_HCA must name the right network, and "
            "NCCL_IB_DISABLE=1 rules InfiniBand out"
            if ray or several
            else ""
        ),
        "set VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS=1800 where steps are really that long",
    ]
    if batch is None or batch > 2048:
        fix.append("--max-num-batched-tokens 2048 makes each step shorter")
    return Diagnosis(cause, tuple(fix), Confidence.LIKELY)


STEP_TIMEOUT = Rule(
    id="vllm-step-timeout",
    means="One step of the engine took longer than vLLM waits for its workers.",
    severity=Severity.ERROR,
    pattern=compile_pattern(r"RPC call to (?P<method>\w+) timed out"),
    explain=_step_timeout,
    sources=("vllm-project/vllm#17965", "vllm-project/vllm#37250"),
)


_ENOUGH = 3


_ENOUGH_STARTING = 15


def is_stall(rule_match: RuleMatch, server_state: ServerState) -> bool:
    """Whether it is said often enough to mean a hang: workers that load or compile are silent for minutes too."""
    if rule_match.was_ready:
        return rule_match.count >= _ENOUGH or server_state.died_itself
    return rule_match.count >= _ENOUGH_STARTING and server_state.ready is None


def _workers_stalled(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis | None:
    if not is_stall(rule_match, server_state):
        return None
    return Diagnosis(
        f"Workers have not answered for a minute, {rule_match.count} times: a step takes very long, or "
        f"one rank hangs and "
        "the others wait for it.",
        (
            "`py-spy dump --pid PID` of each worker shows which one hangs and where",
            "with NCCL_DEBUG=INFO the next run says which collective does not finish",
        ),
        Confidence.LIKELY,
    )


WORKERS_STALLED = Rule(
    id="vllm-workers-stalled",
    means="Workers do not answer for minutes while the server serves.",
    severity=Severity.WARNING,
    pattern=compile_pattern(r"No available shared memory broadcast block found"),
    explain=_workers_stalled,
    sources=("vllm-project/vllm#16841", "vllm distributed/device_communicators/shm_broadcast.py"),
)


_LEAST_TOKENS = 50_000


_LEAST_SECONDS = 2 * LOG_INTERVAL_S


def _throughput_misread(server_state: ServerState) -> Diagnosis | None:
    longest = server_state.rates.longest
    logged, line = server_state.rates.highest
    if server_state.engine == "sglang" or logged * LOG_INTERVAL_S < _LEAST_TOKENS:
        return None
    cause = (
        f"'Avg prompt throughput: {logged:,.1f} tokens/s' is a whole prompt divided by the 10 s since "
        f"the last line: vLLM "
        "counts a prompt's tokens when its first answer token appears."
    )
    if longest is None or longest.seconds < _LEAST_SECONDS or longest.tokens < _LEAST_TOKENS:
        return Diagnosis(
            f"{cause} It was {logged * LOG_INTERVAL_S:,.0f} tokens; the log's timestamps do not show when "
            "the work began.",
            ("measure instead: `farspan bench --url URL --contexts 1M`",),
            Confidence.STRONG,
            evidence=Evidence(line, f"Avg prompt throughput: {logged} tokens/s"),
        )
    low, high = longest.range_tps
    cause += (
        f" By the timestamps it was {longest.tokens:,.0f} tokens in {longest.seconds:,.0f} s: "
        f"{longest.tps:,.0f} tokens/s "
        f"({low:,.0f} to {high:,.0f})."
    )
    return Diagnosis(
        cause,
        (
            "`farspan bench` measures it from the stream; tokens of a prefix cache count in the log up "
            "to 0.15, so warm runs look faster",
        ),
        Confidence.STRONG,
        evidence=Evidence(longest.line, f"Avg prompt throughput: {longest.logged_tps} tokens/s"),
    )


THROUGHPUT_MISREAD = StateRule(
    id="throughput-misread",
    means='vLLM\'s "Avg prompt throughput" is not how fast a long prompt was read.',
    severity=Severity.INFO,
    look=_throughput_misread,
    sources=("vllm v1/metrics/loggers.py: LoggingStatLogger", "observed on vllm 0.12.0"),
)

RULES = (
    PROMPT_TOO_LONG,
    PREEMPTED,
    PREEMPTED_V0,
    REQUEST_STUCK,
    STEP_TIMEOUT,
    WORKERS_STALLED,
    THROUGHPUT_MISREAD,
)
