"""A real SGLang server that a benchmark has started: it is asked, its log read, and it is stopped with all it began."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from sglang_plugin import PORT, generate, get, gpu_bytes, stop, wait

SAID = r"farspan|max_total_num_tokens|KV Cache is allocated|leak|Traceback|Error|[Oo]ut of memory|retract"
FAILURES = (OSError, ValueError, LookupError, ArithmeticError, HTTPException)


@dataclass(frozen=True)
class Site:
    """Where servers are started: SGLang's packages, the plug-in's entry point, and where logs go."""

    packages: Path
    plugin: Path
    logs: Path

    def paths(self) -> str:
        """Return the PYTHONPATH of a server."""
        ours = [self.plugin, Path(__file__).parents[1] / "src", self.packages]
        return ":".join([*map(str, ours), *filter(None, [os.environ.get("PYTHONPATH", "")])])


@dataclass
class Started:
    """A server that runs; `seen` is what becomes of it, for the benchmark's JSON."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    begun: float
    seen: dict[str, Any] = field(default_factory=dict)

    def is_ready(self, within_s: float) -> bool:
        """Wait until the server answers or is gone, and note which."""
        self.seen["ready"] = wait(self.process, self.begun + within_s, self.port)
        self.seen["start_s"] = round(time.monotonic() - self.begun, 1)
        self.seen["gpu_ready"] = gpu_bytes()
        return bool(self.seen["ready"])

    def part(self, name: str, act: Callable[[], Any]) -> None:
        """Do a part of the benchmark, and note what it gave or how it failed; a server that is gone does nothing."""
        if self.process.poll() is not None:
            return
        begun = time.monotonic()
        try:
            self.seen[name] = act()
        except FAILURES as error:
            self.seen[name] = {"failed": f"{type(error).__name__}: {error}"[:400]}
        self.seen[f"{name}_s"] = round(time.monotonic() - begun, 1)
        print(name, json.dumps(self.seen[name]), flush=True)

    def lines(self, pattern: str) -> list[str]:
        """Return the lines of the log that a pattern is found in."""
        text = self.log.read_text("utf-8", "replace").splitlines()
        return [line[:400] for line in text if re.search(pattern, line)]

    def has_said(self, pattern: str, within_s: float) -> bool:
        """Wait until a line of the log says something, or the server is gone."""
        until = time.monotonic() + within_s
        while time.monotonic() < until and self.process.poll() is None:
            if self.lines(pattern):
                return True
            time.sleep(0.5)
        return False

    def flush(self) -> None:
        """Have it forget its prefixes."""
        path = f"http://127.0.0.1:{self.port}/flush_cache"
        urllib.request.urlopen(urllib.request.Request(path, b"", method="POST"), timeout=30).read()

    def many(self, prompts: list[list[int]], most: list[int], limit: float = 200) -> dict[str, Any]:
        """Post all prompts at once, each with the most tokens of its answer; return how they ended."""
        ended: list[tuple[int, int]] = []
        failed: list[str] = []

        def post(tokens: list[int], longest: int) -> None:
            try:
                told = generate(tokens, longest, limit, self.port)["meta_info"]
                ended.append((told["completion_tokens"], told["cached_tokens"]))
            except FAILURES as error:
                failed.append(f"{type(error).__name__}: {error}"[:200])

        threads = [threading.Thread(target=post, args=each) for each in zip(prompts, most, strict=True)]
        begun = time.monotonic()
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        return {
            "sent": len(prompts),
            "ended": len(ended),
            "tokens": sum(tokens for tokens, _ in ended),
            "prompt_tokens": sum(map(len, prompts)),
            "cached_tokens": sum(cached for _, cached in ended),
            "failed": failed[:5],
            "seconds": round(time.monotonic() - begun, 2),
        }


@contextmanager
def started(
    site: Site,
    name: str,
    model: Path,
    flags: str,
    port: int = PORT,
    environment: dict[str, str] | None = None,
) -> Iterator[Started]:
    """Start a server, and stop it in the end; whether it is ready is for the caller to wait for."""
    words = ["sglang.launch_server", "--model-path", str(model), "--port", str(port), *shlex.split(flags)]
    variables = os.environ | {"FARSPAN_QUIET_S": "5", "PYTHONPATH": site.paths()} | (environment or {})
    log = site.logs / f"pools-{name}.log"
    begun = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=file, stderr=file, env=variables, start_new_session=True
        )
    server = Started(process, port, log, begun, {"flags": flags})
    try:
        yield server
        server.seen["alive_at_the_end"] = process.poll() is None and get("/health", port) == 200
    finally:
        stop(process)
        server.seen["log"] = server.lines(SAID)[-40:]


def pseudo_random(seed: int, count: int, words: int) -> list[int]:
    """Return token ids that no other seed gives, below `words`."""
    return [(seed * 7919 + place * place * 31 + place * 7) % (words - 10) + 5 for place in range(count)]
