"""How people write a set of GPUs: `8xH200`, `8*h200`, `H200:8`, `h200x8`, `H200`, `8x140GB`, or `detect`."""

from __future__ import annotations

import re

from farspan.errors import InputError, NotFoundError
from farspan.hardware.by_memory import gpu_by_memory
from farspan.hardware.catalog import find_gpu, given_gpu, known_gpu
from farspan.hardware.gpu import Gpu, Node

_NO_GPU = ("none", "cpu", "no", "0")
_NAME = r"[A-Za-z0-9][\w .-]*?"
_COUNT_FIRST = re.compile(rf"(\d{{1,4}})\s*(?:[x×*]\s*|\s)({_NAME})", re.IGNORECASE)
_NAME_FIRST = re.compile(rf"({_NAME})\s*[x×*:]\s*(\d{{1,4}})", re.IGNORECASE)


def names_no_gpu(text: str) -> bool:
    """Whether a text says that there is no GPU: `none`, `cpu`, `0`."""
    return text.strip().lower() in _NO_GPU


def parse_node(text: str, memory_gib: float | None = None) -> Node:
    """Read a set of GPUs of one kind, or `detect` (this machine's, through NVML).

    Args:
        text: The count and the name, or the memory of one GPU, in either order, in any case.
        memory_gib: Memory of one GPU as torch sees it, for a kind the catalog lacks or knows otherwise.

    Raises:
        InputError: The text is no set of GPUs, or detection fails.
        NotFoundError: The catalog lacks the kind, and no memory is given.
    """
    wanted = text.strip()
    if wanted.lower() == "detect":
        from farspan.hardware.detect import detect_node

        return detect_node()
    if names_no_gpu(text):
        raise InputError(
            f"--gpus {text} has no GPU to plan for",
            "name the GPUs, as 8xH200; farspan serve takes --gpus none for a CPU, with --runtime local",
        )
    name, count = _split(wanted)
    if not count:
        raise InputError(f"{text!r} is not a set of GPUs", "write it as 8xH200, H200, 8x140GB or detect")
    return Node(_gpu(name, memory_gib), count)


def _split(text: str) -> tuple[str, int]:
    """The name and the count; count 0 for what is no set of GPUs."""
    if known_gpu(text) is not None and re.fullmatch(_NAME, text):
        return text, 1
    match = _COUNT_FIRST.fullmatch(text)
    if match is not None:
        return match[2], int(match[1])
    match = _NAME_FIRST.fullmatch(text)
    if match is not None and (_is_gpu(match[1]) or ":" in text):
        return match[1], int(match[2])
    alone = re.fullmatch(r"[A-Za-z][\w .-]*|\d{4}", text) or gpu_by_memory(text)
    return (text, 1) if alone else ("", 0)


def _is_gpu(name: str) -> bool:
    return known_gpu(name) is not None or gpu_by_memory(name) is not None


def _gpu(name: str, memory_gib: float | None) -> Gpu:
    if memory_gib is not None:
        return given_gpu(name, memory_gib)
    gpu = known_gpu(name) or gpu_by_memory(name)
    if gpu is None and (several := _COUNT_FIRST.fullmatch(name)) is not None:
        raise InputError(
            f"{name!r} on several machines is not a set of GPUs",
            f"write all of them together, as 16x{several[2]} for 2x8; farspan serve has --nodes for machines",
        )
    if gpu is None and re.fullmatch(r"\d+(?:\.\d+)?", name):
        raise NotFoundError(f"{name!r} is not a GPU farspan knows", f"for GPUs of {name} GB write {name}GB")
    return gpu or find_gpu(name)
