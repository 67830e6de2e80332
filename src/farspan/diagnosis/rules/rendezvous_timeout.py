"""The nodes did not find each other."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Confidence, Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="rendezvous-timeout",
    severity=Severity.ERROR,
    needles=("DistNetworkError", "DistStoreError", "waiting for clients", "The client socket has timed out"),
    pattern=re.compile(
        r"DistNetworkError|DistStoreError|[Tt]imed out after .{0,60}waiting for clients|The client socket has timed out"
    ),
    explain=diagnose(
        "The processes of this server did not all reach the rendezvous: a node was not started, or its "
        "address or port cannot be reached.",
        "start every node with the same --dist-init-addr (SGLang) or head address (vLLM), and --node-rank of "
        "its own",
        "open that port between the nodes; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the interface",
        confidence=Confidence.STRONG,
    ),
    sources=("sgl-project/sglang#3932",),
)
