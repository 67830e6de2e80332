"""What a run was measured with: versions, this machine, the server's own settings, the plan."""

from __future__ import annotations

import importlib
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

from farspan import __version__

_PACKAGES = (
    "aiohttp",
    "numpy",
    "orjson",
    "tiktoken",
    "tokenizers",
    "transformers",
    "torch",
    "vllm",
    "sglang",
)
# Settings whose values are nobody's business; tokenizer settings have "token" in their names and stay.
_SECRET = re.compile(r"(api_?key|password|secret|(^|_)token$|authorization)", re.IGNORECASE)


def describe_client() -> dict[str, str]:
    """Say what ran the client, in a few words each."""
    return {
        "farspan": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count() or "unknown"),
    }


def describe_machine() -> dict[str, Any]:
    """Describe this machine and what is installed on it; what cannot be found out is left out."""
    machine: dict[str, Any] = {"host": platform.node(), "processor": _read_processor()}
    memory = _read_memory()
    if memory is not None:
        machine["memory_bytes"] = memory
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**machine, "packages": packages, "gpus": _list_gpus()}


def without_secrets(settings: Any) -> Any:
    """Return settings with the values of keys and passwords replaced, at any depth."""
    if isinstance(settings, dict):
        return {
            name: "(not kept)" if _SECRET.search(str(name)) and value else without_secrets(value)
            for name, value in settings.items()
        }
    if isinstance(settings, list):
        return [without_secrets(value) for value in settings]
    return settings


def read_document(path: Path) -> Any:
    """Return a JSON file's contents, or None when it cannot be read."""
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None


def _read_processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _read_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _list_gpus() -> list[dict[str, Any]]:
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found.append(
                {"name": pynvml.nvmlDeviceGetName(handle), "memory_bytes": memory.total, "driver": driver}
            )
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return []
    return found
