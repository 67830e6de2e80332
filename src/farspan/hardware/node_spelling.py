"""How people write a set of GPUs: `8xH200`, `H200`, or `detect`."""

from __future__ import annotations

import re

from farspan.errors import InputError
from farspan.hardware.catalog import find_gpu
from farspan.hardware.gpu import Node


def parse_node(text: str) -> Node:
    """Read `8xH200`, `H200` or `detect` (this machine's GPUs, through NVML).

    Raises:
        InputError: The text is none of these, or detection fails.
    """
    if text.strip().lower() == "detect":
        from farspan.hardware.detect import detect_node

        return detect_node()
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x×*]\s*)?([A-Za-z][\w .-]*|\d{4})\s*", text)
    if match is None or match.group(1) == "0":
        raise InputError(f"{text!r} is not a set of GPUs", "write it as 8xH200, H200 or detect")
    return Node(find_gpu(match.group(2)), int(match.group(1) or 1))
