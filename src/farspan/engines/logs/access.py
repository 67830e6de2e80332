"""Who knocks: HTTP answers that were refusals, by address."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import lru_cache

from farspan.engines.logs.records import Access

_ADDRESSES = 4_096
_PATHS = 32
# Paths the engines' own clients, probes and browsers ask for: a 404 there is no stranger's doing.
_OWN = (
    "/v1/", "/health", "/ping", "/metrics", "/version", "/tokenize", "/detokenize", "/generate", "/load",
    "/get_", "/server_info", "/model_info", "/flush_cache", "/docs", "/openapi.json", "/redoc", "/favicon",
    "/robots.txt", "/invocations", "/encode", "/classify", "/score", "/rerank", "/pooling", "/api/",
    "/models", "/chat/", "/completions",
)  # fmt: skip


@dataclass(slots=True)
class AccessLog:
    """Counts refused requests by address. At most 4,096 addresses are told apart; the rest are counted.

    Args:
        answered: Requests answered with 200.
        refused: Requests answered otherwise.
        by_status: Count by status.
        strangers: Count by public address of requests that ended in 404, 405 or 400 outside the API.
        probes: A few of the paths they asked for.
        first: The first such line's number and text.
        overflow: Strangers beyond those told apart.
    """

    answered: int = 0
    refused: int = 0
    by_status: dict[int, int] = field(default_factory=dict)
    strangers: dict[str, int] = field(default_factory=dict)
    probes: dict[str, int] = field(default_factory=dict)
    first: tuple[int, str] = (0, "")
    overflow: int = 0
    health_503: int = 0

    def see(self, access: Access) -> None:
        """Count one refused request."""
        if access.status == 200:
            return
        self.refused += 1
        self.by_status[access.status] = self.by_status.get(access.status, 0) + 1
        parts = access.request.split(" ")
        path = parts[1] if len(parts) > 1 else access.request
        if access.status == 503 and path.startswith("/health"):
            self.health_503 += 1
        if access.status not in (400, 404, 405, 401, 403) or path.startswith(_OWN):
            return
        if not is_public(access.address):
            return
        if not self.first[0]:
            text = f'{access.address} - "{access.request[:200]}" {access.status}'
            self.first = (access.where.line, text)
        if access.address in self.strangers or len(self.strangers) < _ADDRESSES:
            self.strangers[access.address] = self.strangers.get(access.address, 0) + 1
        else:
            self.overflow += 1
        probe = path[:80]
        if probe in self.probes or len(self.probes) < _PATHS:
            self.probes[probe] = self.probes.get(probe, 0) + 1


@lru_cache(maxsize=4096)
def is_public(address: str) -> bool:
    """Whether an address of an access log is one of the public Internet."""
    try:
        parsed = ipaddress.ip_address(address.strip("[]").split("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_global
