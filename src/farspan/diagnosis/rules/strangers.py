"""The port is open to the Internet, and strangers try its handle."""

from __future__ import annotations

from farspan.diagnosis.findings import Confidence, Evidence, Severity
from farspan.diagnosis.rule import Diagnosis, StateRule
from farspan.diagnosis.server_state import ServerState

_SHOWN = 3


def _look(situation: ServerState) -> Diagnosis | None:
    door = situation.door
    if not door.strangers:
        return None
    requests = sum(door.strangers.values()) + door.overflow
    addresses = len(door.strangers)
    worst = sorted(door.strangers, key=lambda address: -door.strangers[address])[:_SHOWN]
    paths = sorted(door.probes, key=lambda path: -door.probes[path])[:_SHOWN]
    guarded = situation.args.get("api_key") not in (None, "", [], ())
    line, text = door.first
    host = situation.text("host")
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


RULE = StateRule(
    id="open-to-strangers", severity=Severity.WARNING, look=_look, sources=("access lines of uvicorn",)
)
