"""Which operations a model runs with: Triton's where each of them works on this GPU, torch's otherwise."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from farspan.builtin.fused_attention import refuse_cudnn
from farspan.builtin.kernels.operations import Operations
from farspan.builtin.kernels.trial import CUDNN_ATTENTION, try_kernels
from farspan.builtin.model_config import LlamaConfig

_LOG = logging.getLogger(__name__)
_PLAIN = "layers run torch's own operations, decoding without CUDA graphs"


def choose_operations(
    folder: Path, config: LlamaConfig, device: torch.device, dtype: torch.dtype
) -> Operations:
    """Return the operations for a model on a device; what is refused there is said in the log.

    On a GPU every kernel is tried in another process first: one that faults would leave nothing of this one to go on.

    Args:
        folder: The model's, for the process that tries kernels.
        config: Its config.
        device: Where it runs.
        dtype: Of its activations.
    """
    if device.type == "cpu":
        return Operations(config, device)
    try:
        from farspan.builtin.kernels.triton_operations import TritonOperations
    except Exception as problem:  # noqa: BLE001 whatever it is, torch's operations are there
        _LOG.warning("%s: no Triton (%s)", _PLAIN, problem)
        return Operations(config, device)
    refused = try_kernels(folder, device, dtype)
    if refused is None:
        _LOG.warning("%s: no kernel could be tried", _PLAIN)
        return Operations(config, device)
    if problem_of_cudnn := refused.pop(CUDNN_ATTENTION, ""):
        refuse_cudnn(problem_of_cudnn)
    chosen = TritonOperations(config, device)
    replace_refused(chosen, refused)
    return chosen


def replace_refused(operations: Operations, refused: Mapping[str, str]) -> None:
    """Put torch's operations in the place of those that something is wrong with, and say so."""
    reference = Operations(operations.config, operations.device)
    operations.refused = frozenset(refused)
    for name, problem in refused.items():
        _LOG.warning("%s runs as torch's own operations: %s", name, problem)
        if hasattr(reference, name):
            setattr(operations, name, getattr(reference, name))
    if "few_experts" in refused:
        operations.few_rows = 0
    if {"write_heads", "attend_pages"} & set(refused):
        operations.paged = False
