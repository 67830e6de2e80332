"""The kernels compile for a Hopper GPU: what the interpreter forgives, the compiler does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_every_kernel_compiles_for_hopper(probe_folder: Path, tmp_path: Path) -> None:
    program = Path(__file__).parent / "compile_for_hopper.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(program), str(probe_folder)],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    compiled = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, *_ in compiled} == {
        "add_norm",
        "attend_join",
        "attend_split",
        "experts_down",
        "experts_up",
        "heads",
        "join",
        "route",
        "silu_mul",
        "sum_rows",
    }
    # More shared memory than a multiprocessor has would be refused at the launch.
    assert all(int(size) > 0 and int(shared) < 227 * 1024 for _, size, shared, *_ in compiled)
    # A row in FP8 is 264 bytes: only every other one begins where 16 bytes may be copied at once.
    wide = {fp8: int(count) for name, _, _, count, fp8 in compiled if name == "attend_split"}
    assert wide["True"] == 0
    assert wide["False"] > 0, "rows in bfloat16 may be"
