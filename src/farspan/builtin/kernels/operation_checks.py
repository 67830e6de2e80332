"""What each operation is tried with, beside torch's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from farspan.builtin.kernels.operations import Operations, PageView
from farspan.builtin.model_config import LlamaConfig
from farspan.kv.formats import KVFormat, LayerStore

# What rounding may do, as a share of the largest value.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}
# A value in FP8 may fall on the other side of a step, which is an eighth of it at the most.
_FP8_STEP = 0.125
_TOKENS = 3
_PAGE = 16

Tensors = tuple[torch.Tensor, ...]


class Check(NamedTuple):
    """What calls an operation on inputs of the model's sizes, and what its results may differ by."""

    name: str
    run: Callable[[Operations], Tensors]
    tolerance: float


def find_problem(check: Check, operations: Operations, reference: Operations) -> str | None:
    """Return what is wrong with an operation; None when it does as torch's do."""
    try:
        for actual, expected in zip(check.run(operations), check.run(reference), strict=True):
            size = float(expected.float().abs().max())
            error = float((actual.float() - expected.float()).abs().max())
            if not error <= check.tolerance * max(size, 1e-3):
                return f"it is off by {error:.3g} of {size:.3g}"
    except Exception as problem:  # noqa: BLE001 whatever it is, torch's operations are there
        return " ".join(str(problem).split())[:300] or type(problem).__name__
    return None


def list_checks(config: LlamaConfig, dtype: torch.dtype, device: torch.device) -> Iterator[Check]:
    """Yield what each operation is tried with, sizes those of the model."""
    tolerance = _TOLERANCE.get(dtype, 1e-3)
    heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    hidden, width = config.hidden_size, config.intermediate_size
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, generator=generator).to(dtype)

    def integers(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    residual, delta, weight = random(_TOKENS, hidden), random(_TOKENS, hidden), random(hidden)

    def add_norm(run: Operations) -> Tensors:
        return *run.add_norm(residual, delta, weight), *run.add_norm(residual, None, weight)

    yield Check("add_norm", add_norm, tolerance)
    gate_up, score = random(_TOKENS, 2 * width), random(_TOKENS).float().sigmoid()
    yield Check("silu_mul", lambda run: (run.silu_mul(gate_up), run.silu_mul(gate_up, score)), tolerance)
    qkv = random(_TOKENS, (heads + 2 * kv_heads) * dim)
    positions = integers(5, 70, 40)
    for rope in (True, False):

        def heads_of(run: Operations, rope: bool = rope) -> Tensors:
            return run.heads(qkv, run.places(positions), rope)

        yield Check("heads", heads_of, tolerance)
    parts = random(2, _TOKENS, heads, dim).transpose(1, 2).unsqueeze(1)
    logsums = random(2, 1, heads, _TOKENS).float() * 3

    def join(run: Operations) -> Tensors:
        first = run.join((parts[0].clone(), logsums[0]), (parts[1], logsums[1]))
        return run.join((first[0].clone(), first[1]), (parts[1], logsums[1]))

    yield Check("join", join, tolerance)
    pages = 8
    table = torch.randperm(pages, device=device, generator=generator).int().repeat(_TOKENS, 1)
    rows, first_page = integers(0, 1, 2), integers(0, 0, 0)
    query = random(_TOKENS, heads, dim)
    filling = random(2, pages * _PAGE, kv_heads, dim)
    for fp8 in (False, True):
        form = KVFormat(kv_heads, dim, dtype, fp8)

        def store(form: KVFormat = form) -> LayerStore:
            count = pages * _PAGE
            made = form.store(torch.zeros(count, form.row_bytes, dtype=torch.uint8, device=device))
            made.write(0, filling[0], filling[1])
            return made

        for chunk in (None, 64):
            view = PageView(table, rows, first_page, _PAGE, chunk)

            def write(run: Operations, view: PageView = view) -> Tensors:
                to = store()
                slots = view.slots(positions)
                written = run.write_heads(qkv, run.places(positions), view.chunk is not None, to, slots)
                (back,) = to.gather(slots)
                return written, back.key, back.value

            def read(run: Operations, view: PageView = view) -> Tensors:
                return (run.attend_pages(query, positions, view, store()),)

            yield Check("write_heads", write, _FP8_STEP if fp8 else tolerance)
            yield Check("attend_pages", read, tolerance)
    if any(layer.moe for layer in config.layers):
        experts = min(3, config.num_local_experts)
        top_k = min(config.num_experts_per_tok, experts)
        up = random(experts + 1, 2 * width, hidden) * hidden**-0.5
        down = random(experts + 1, hidden, width) * width**-0.5
        logits = random(_TOKENS, experts)

        def mix(run: Operations) -> Tensors:
            return (run.few_experts(residual, logits, up, down, top_k),)

        yield Check("few_experts", mix, tolerance)
        places = torch.arange(_TOKENS * top_k, device=device).view(_TOKENS, top_k).flip(0)
        rows_of = random(_TOKENS * top_k, hidden)
        yield Check("sum_rows", lambda run: (run.sum_rows(residual, rows_of, places),), tolerance)
