"""There is no C compiler, and Triton needs one."""

from __future__ import annotations

import re

from farspan.diagnosis.findings import Severity
from farspan.diagnosis.rule import Rule, diagnose

RULE = Rule(
    id="no-compiler",
    severity=Severity.ERROR,
    needles=(
        "Failed to find C compiler",
        "Python.h: No such file",
        "Could not find nvcc",
        "ninja: not found",
        "No such file or directory: 'ninja'",
        "No such file or directory: 'nvcc'",
    ),
    pattern=re.compile(
        r"Failed to find C compiler|Python\.h: No such file|Could not find nvcc|ninja: not found"
        r"|No such file or directory: '(?:ninja|nvcc)'"
    ),
    explain=diagnose(
        "Kernels are compiled when the server starts, and the compiler (gcc, nvcc, ninja) or Python's "
        "headers "
        "are not there.",
        "apt-get install -y build-essential python3-dev, or an image that has them (a -runtime image "
        "may not)",
        "set CC to the compiler's path when there is one",
    ),
    sources=("vllm-project/vllm#2997", "sgl-project/sglang#1067", "vllm-project/vllm#14075"),
)
