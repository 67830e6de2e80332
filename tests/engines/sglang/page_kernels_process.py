"""SGLang's Triton kernels that hand out pages, in Triton's interpreter: `page_kernels_process.py VERSION FOLDER SEED`.

They are given as many pages as requests newly need, and no more, as elastic pools give them.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import torch

PAGE = 16


def kernels(folder: str) -> Any:
    """Return SGLang's module of them, without the rest of SGLang."""
    path = Path(folder) / "sglang" / "kernels" / "ops" / "memory" / "allocator.py"
    spec = importlib.util.spec_from_file_location("sglang_allocator_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tensor(numbers: list[int]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def extend(module: Any, chance: random.Random) -> None:
    """Requests go on by some tokens each, from inside a page or from its start."""
    count = chance.randint(1, 5)
    starts = [chance.choice([0, PAGE, 2 * PAGE, chance.randint(1, 60)]) for _ in range(count)]
    stops = [start + chance.choice([1, 5, PAGE, 40, 100]) for start in starts]
    needed = sum(-(-stop // PAGE) - -(-start // PAGE) for start, stop in zip(starts, stops, strict=True))
    pages = chance.sample(range(1, 500), needed)
    last = [
        (1000 + number) * PAGE + (start - 1) % PAGE if start else -1 for number, start in enumerate(starts)
    ]
    out = tensor([-7] * (sum(stops) - sum(starts)))
    width = 1 << (count - 1).bit_length()
    module.alloc_extend_kernel[(count,)](
        tensor(starts), tensor(stops), tensor(last), tensor(pages), out, width, PAGE
    )
    expected, left = [], iter(pages)
    for start, stop, before in zip(starts, stops, last, strict=True):
        page = before // PAGE
        for position in range(start, stop):
            page = next(left) if position % PAGE == 0 else page
            expected.append(page * PAGE + position % PAGE)
    assert out.tolist() == expected, (starts, stops)


def decode(module: Any, chance: random.Random) -> None:
    """Requests go on by a token each."""
    count = chance.randint(1, 5)
    stops = [chance.choice([PAGE + 1, 2 * PAGE + 1, chance.randint(2, 60)]) for _ in range(count)]
    pages = chance.sample(range(1, 500), sum(stop % PAGE == 1 for stop in stops))
    last = [(1000 + number) * PAGE + (stop - 2) % PAGE for number, stop in enumerate(stops)]
    out = tensor([-7] * count)
    width = 1 << (count - 1).bit_length()
    module.alloc_decode_kernel[(count,)](tensor(stops), tensor(last), tensor(pages), out, width, PAGE)
    left = iter(pages)
    expected = [
        next(left) * PAGE if stop % PAGE == 1 else before + 1
        for stop, before in zip(stops, last, strict=True)
    ]
    assert out.tolist() == expected, stops


if __name__ == "__main__":
    found, chance = kernels(sys.argv[2]), random.Random(int(sys.argv[3]))
    for _ in range(40):
        extend(found, chance)
        decode(found, chance)
    print("right")
