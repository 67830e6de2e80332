"""`python -m farspan.builtin.kernels.trial_program FOLDER DEVICE DTYPE [NAME...]`: try all kernels but the named ones.

A line of JSON stands before and after each, so that whoever reads them knows which one the process ended at.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from farspan.builtin.experts import grouped_product_works
from farspan.builtin.fused_attention import cudnn_is_right
from farspan.builtin.kernels.operation_checks import find_problem, list_checks
from farspan.builtin.kernels.operations import Operations
from farspan.builtin.kernels.trial import CUDNN_ATTENTION, GROUPED_PRODUCT, device_answers
from farspan.builtin.kernels.triton_operations import TritonOperations
from farspan.builtin.model_config import LlamaConfig, read_config


def main(folder: Path, device: torch.device, dtype: torch.dtype, left_out: list[str]) -> int:
    """Try everything but what is left out; return 3 when the device answers no more."""
    config = read_config(folder)
    operations, reference = TritonOperations(config, device), Operations(config, device)
    with torch.inference_mode():
        for check in list_checks(config, dtype, device):
            if check.name in left_out:
                continue
            _say(trying=check.name)
            problem = find_problem(check, operations, reference)
            _say(tried=check.name, problem=problem or "")
            if problem:
                left_out.append(check.name)
                if not device_answers(device):
                    return 3
        if device.type == "cuda":
            for name, run in _list_libraries(config, device, dtype):
                if name not in left_out:
                    _say(trying=name)
                    run()
                    torch.cuda.synchronize(device)
                    _say(tried=name)
    _say(finished=True)
    return 0


def _list_libraries(
    config: LlamaConfig, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Yield what is tried of torch's own libraries.

    What these answer is asked again where it is used; here they only show that they harm nobody.
    """
    yield CUDNN_ATTENTION, lambda: cudnn_is_right(device, dtype, config.head_dim)
    if any(layer.moe for layer in config.layers):
        hidden, width = config.hidden_size, config.intermediate_size
        yield GROUPED_PRODUCT, lambda: grouped_product_works(device, dtype, hidden, width)


def _say(**words: object) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(Path(given[0]), torch.device(given[1]), getattr(torch, given[2]), given[3:]))
