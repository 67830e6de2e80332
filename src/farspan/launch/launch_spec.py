"""What is to run: everything a runtime needs to know, decided, nothing started."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farspan.engines.command import EngineCommand, Nodes
from farspan.engines.engine import Engine
from farspan.launch.expected import ExpectedStart
from farspan.launch.hubcache import ModelFiles
from farspan.planner.request import EnginePlan, PlanRequest
from farspan.sizes import GIB

# The engine's own port in a container; what is published outside is farspan's to choose.
INSIDE_PORT = 8000


@dataclass(frozen=True, slots=True)
class Launch:
    """One server, decided.

    Args:
        name: Its name.
        runtime: "local", "docker" or "kubernetes".
        engine: The engine.
        version: Its version.
        command: What starts the engine.
        files: Where the model is.
        host: Address it can be reached at on this machine, or inside the cluster.
        port: Port it can be reached at.
        context: Longest request, in tokens.
        gpus: GPUs on each machine; 0 for none.
        nodes: The machines.
        secrets: Environment variable of the engine to the variable here that holds its value.
        expected: How long the start should take.
        plan: The plan; None where there is no GPU to plan for.
        gpu: Catalog name of the GPUs; empty for none.
        warnings: What the user must know, one sentence each.
        notes: What explains the plan, one sentence each.
        request: What was planned; None where nothing was.
        plan_arguments: What `farspan.plan` takes to plan further contexts for the same server.
    """

    name: str
    runtime: str
    engine: Engine
    version: str
    command: EngineCommand
    files: ModelFiles
    host: str
    port: int
    context: int
    gpus: int
    nodes: Nodes
    secrets: Mapping[str, str]
    expected: ExpectedStart
    plan: EnginePlan | None = None
    gpu: str = ""
    warnings: tuple[str, ...] = field(default_factory=tuple)
    notes: tuple[str, ...] = ()
    request: PlanRequest | None = None
    plan_arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the server answers."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"

    @property
    def tokenizer(self) -> str:
        """Folder of this machine with the model's tokenizer; empty where there is none."""
        return self.files.outside if Path(self.files.outside).is_dir() else ""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shm_bytes(context: int, ranks: int) -> int:
    """Size of /dev/shm, in bytes: 2 GiB, one more a rank, and 16 bytes a token of the longest request.

    Assumed: ranks hand each other requests and NCCL's buffers through it; docker's default of 64 MiB breaks both.
    tmpfs takes memory only as it is used.
    """
    return -(-(2 * GIB + ranks * GIB + 16 * context) // GIB) * GIB


def digest(parts: object) -> str:
    """A fingerprint of what runs."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
