"""What clients do: strangers at the port, and clients that give up."""

from __future__ import annotations

from farspan.engines.logs.findings import Confidence, Evidence, Severity
from farspan.engines.logs.pattern import compile_pattern
from farspan.engines.logs.rule import Diagnosis, Rule, RuleMatch, StateRule
from farspan.engines.logs.server_state import ServerState

_SHOWN = 3


def _strangers(server_state: ServerState) -> Diagnosis | None:
    access_log = server_state.access_log
    if not access_log.strangers:
        return None
    requests = sum(access_log.strangers.values()) + access_log.overflow
    addresses = len(access_log.strangers)
    worst = sorted(access_log.strangers, key=lambda address: -access_log.strangers[address])[:_SHOWN]
    paths = sorted(access_log.probes, key=lambda path: -access_log.probes[path])[:_SHOWN]
    guarded = server_state.args.get("api_key") not in (None, "", [], ())
    line, text = access_log.first
    host = server_state.text("host")
    return Diagnosis(
        f"The port is open to the Internet: {requests:,} requests of {addresses:,} public address"
        f"{'es' if addresses > 1 else ''} ({', '.join(worst)}) asked for pages this server does not have "
        f"({', '.join(paths)})."
        + ("" if guarded else " No API key is set: whoever finds /v1 can use the GPUs."),
        (
            f"--host 127.0.0.1{f' instead of {host}' if host else ''}, with a reverse proxy or an SSH "
            f"tunnel before it; docker: -p "
            "127.0.0.1:8000:8000",
            "a firewall rule for the port, and an API key from the environment (VLLM_API_KEY)",
        ),
        Confidence.CERTAIN,
        evidence=Evidence(line, text, requests),
    )


STRANGERS = StateRule(
    id="open-to-strangers",
    severity=Severity.WARNING,
    look=_strangers,
    sources=("access lines of uvicorn",),
    means="The port is open to the Internet, and strangers try its handle.",
)

_DISCONNECTED = compile_pattern(
    r"Request is disconnected from the client side|Aborted request\(?s?\)? |Client disconnected"
)


def _disconnected(rule_match: RuleMatch, server_state: ServerState) -> Diagnosis:
    longest = server_state.rates.longest
    count = "A client" if rule_match.count == 1 else f"{rule_match.count} times a client"
    pace = ""
    if longest is not None and longest.tps:
        pace = (
            f" The log shows {longest.tokens:,.0f} prompt tokens in {longest.seconds:.0f} s, "
            f"{longest.tps:,.0f} tokens/s: a prompt of a million "
            f"tokens takes {1e6 / longest.tps / 60:.0f} minutes or more at that rate."
        )
    return Diagnosis(
        f"{count} gave up before its answer: the connection was closed from its side, and the "
        f"request was aborted. Nothing failed in the "
        f"server.{pace}",
        (
            "a longer timeout in the client, and in any proxy between (nginx: proxy_read_timeout); "
            "stream the answer",
            "`farspan bench` waits as long as it takes, and `farspan plan` says how long that is",
        ),
        Confidence.CERTAIN,
    )


DISCONNECTED = Rule(
    id="client-disconnected",
    means="A client gave up before its answer came.",
    severity=Severity.WARNING,
    pattern=_DISCONNECTED,
    explain=_disconnected,
    sources=("sglang srt/managers/tokenizer_manager.py", "vllm entrypoints/utils.py: with_cancellation"),
)

RULES: tuple[Rule | StateRule, ...] = (STRANGERS, DISCONNECTED)
