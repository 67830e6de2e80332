"""Compile the kernels as one rank of Llama 4 Scout launches them, for a GPU that is not there; print what each takes.

A program of its own: the tests beside it have the kernels interpreted.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from farspan.builtin.kernels import triton_operations
from farspan.builtin.kernels.operations import PageView
from farspan.builtin.model_config import read_config
from farspan.kv.formats import KVFormat

HIDDEN, WIDTH, EXPERTS, DIM = 5120, 1024, 16, 128
DTYPES = {
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.float8_e4m3fn: "fp8e4nv",
}
CPU = torch.device("cpu")


def compile_launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Compile what would have been launched."""
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants}
    names = kernel.arg_names
    signature: dict[str, str] = dict.fromkeys(names, "constexpr")
    aligned = {}
    for index, (name, value) in enumerate(zip(names, arguments, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + DTYPES[value.dtype]
            aligned[(index,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 and name not in kernel.do_not_specialize:
            constants[name] = 1
        else:
            signature[name] = "i32"
            if value % 16 == 0 and name not in kernel.do_not_specialize:
                aligned[(index,)] = [["tt.divisibility", 16]]
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    wide = made.asm["ptx"].count("cp.async.cg.shared.global")  # copies of 16 bytes, which must be aligned
    print(kernel.__name__, len(made.asm["cubin"]), made.metadata.shared, wide, constants.get("FP8"))


def main(folder: Path) -> None:
    """Compile for the config of a folder, with a rank's dimensions."""
    config = replace(
        read_config(folder), num_attention_heads=5, num_key_value_heads=1, head_dim=DIM, hidden_size=HIDDEN
    )
    triton_operations._launch = compile_launch
    run = triton_operations.TritonOperations(config, CPU)
    hidden = torch.zeros(2, HIDDEN, dtype=torch.bfloat16)
    for delta in (None, hidden):
        run.add_norm(hidden, delta, hidden[0])
    wide = torch.zeros(2, 2 * WIDTH, dtype=torch.bfloat16)
    for scale in (None, torch.zeros(2)):
        run.silu_mul(wide, scale)
    places = run.places(torch.tensor([0, 1]))
    qkv = torch.zeros(2, 7 * DIM, dtype=torch.bfloat16)
    slots = torch.tensor([0, 1])
    for rope in (True, False):
        run.heads(qkv, places, rope)
        for fp8 in (False, True):
            form = KVFormat(1, DIM, torch.bfloat16, fp8)
            store = form.store(torch.zeros(16, form.row_bytes, dtype=torch.uint8))
            query = run.write_heads(qkv, places, rope, store, slots)
            table = torch.zeros(2, 600, dtype=torch.int32)
            view = PageView(table, slots, slots, 16, 8192 if rope else None)
            run.attend_pages(query, slots, view, store)
    part = (torch.zeros(1, 1, 10, DIM, dtype=torch.bfloat16), torch.zeros(1, 1, 10))
    run.join(run.join(part, part), part)
    gate_up = torch.empty(EXPERTS + 1, 2 * WIDTH, HIDDEN, dtype=torch.bfloat16)
    down = torch.empty(EXPERTS + 1, HIDDEN, WIDTH, dtype=torch.bfloat16)
    run.few_experts(hidden, torch.zeros(2, EXPERTS, dtype=torch.bfloat16), gate_up, down, 1)
    run.sum_rows(hidden, hidden, slots[:, None])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
