"""A real SGLang's scheduler on elastic pools that share a budget with a real neighbour: see `kv_pools_process.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from farspan.integrations.sglang.adapters import ADAPTERS

ROOT = Path(__file__).resolve().parents[3]
LIMIT = 3_500_000

pytestmark = pytest.mark.engines

NEIGHBOUR = """
import random, time
from farspan.kv.memory.budget.member import BudgetMember, budget_path
from farspan.kv.memory.drivers.driver import NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.segments import SegmentPool
member = BudgetMember(budget_path("shared", "host"), "neighbour", 2**40)
pool = SegmentPool(HostDriver(), 4096, quiet_s=0.2, budget=member, reread_s=0.001)
chance, lent = random.Random(3), []
print("ready", flush=True)
while True:
    try:
        if chance.random() < 0.4:
            lent += pool.take(chance.randint(1, 300))
        elif lent:
            count = chance.randint(1, len(lent))
            pool.give(lent[:count])
            del lent[:count]
    except NoRoomError:
        if chance.random() < 0.5:
            pool.give(lent)
            lent = []
    pool.tick()
    time.sleep(0.002)
"""


@pytest.mark.parametrize("version", sorted(one.version for one in ADAPTERS.values() if one.elastic_pools))
def test_requests_are_served_beside_a_neighbour_within_the_limit(version: str, tmp_path: Path) -> None:
    """SGLang's identities hold after every step; all requests end; together the two hold no more than the limit."""
    tmp_path.chmod(0o700)
    parent = Path(os.environ.get("FARSPAN_SGLANG_SOURCE", ROOT))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "FARSPAN_BUDGET": "shared",
        "FARSPAN_BUDGET_LIMIT": str(LIMIT),
        "FARSPAN_BUDGET_DIR": str(tmp_path),
    }
    neighbour = subprocess.Popen(
        [sys.executable, "-c", NEIGHBOUR], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert neighbour.stdout is not None
        assert neighbour.stdout.readline() == "ready\n"
        script = Path(__file__).parent / "kv_pools_process.py"
        case = json.dumps({"seed": 2, "budget": 4_194_304, "requests": 30})
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(script), version, str(parent / f".sglang-{version}"), case],
            capture_output=True,
            text=True,
            timeout=900,
            env=environment,
        )
    finally:
        neighbour.kill()
        neighbour.wait()
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    seen = seen[0] if isinstance(seen, list) else seen
    assert seen["counts"]["finished"] == 30
    assert seen["bytes"]["peak"] <= LIMIT
    assert seen["bytes"]["begin"] == seen["bytes"]["end"]
