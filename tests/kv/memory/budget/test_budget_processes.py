"""Real processes with real memory on one budget: they claim, give back, stop and are killed, and it always holds."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farspan.kv.memory.budget.budget_file import BudgetFile
from farspan.kv.memory.budget.member import BudgetMember

SEGMENT = 1 << 16
LIMIT = 100 * SEGMENT

WORKER = """
import random, sys, time
from pathlib import Path
from farspan.kv.memory.budget.member import BudgetMember
from farspan.kv.memory.drivers.driver import NoRoomError
from farspan.kv.memory.drivers.host import HostDriver
from farspan.kv.memory.segments import SegmentPool

path, seed = Path(sys.argv[1]), int(sys.argv[2])
chance = random.Random(seed)
driver = HostDriver()
member = BudgetMember(path, f"worker {seed}", driver.memory().total)
pool = SegmentPool(driver, 1 << 16, quiet_s=0.05, reread_s=0.001, budget=member)
lent = []
print("ready", flush=True)
while True:
    act = chance.random()
    try:
        if act < 0.45:
            lent += pool.take(chance.randint(1, 40))
        elif act < 0.55:
            pool.promise(chance.randint(0, 30))
        elif lent:
            count = chance.randint(1, len(lent))
            pool.give(lent[:count])
            del lent[:count]
    except NoRoomError:
        pool.give(lent)
        lent = []
    pool.tick()
    assert driver.physical_bytes() <= member.held, (driver.physical_bytes(), member.held)
    if act > 0.9:
        time.sleep(chance.random() * 0.01)
"""


def _start(path: Path, seed: int) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), str(seed)], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


@pytest.mark.parametrize("seed", [1, 2])
def test_random_processes_never_exceed_the_limit_and_leave_no_hole(tmp_path: Path, seed: int) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "shared@host.budget"
    watcher = BudgetFile.create(path, 2**40)
    with watcher.locked():
        watcher.write_limit(LIMIT)
    chance = random.Random(seed)
    workers = [_start(path, seed * 100 + number) for number in range(4)]
    reads = most = 0
    try:
        for number in range(8):
            until = time.monotonic() + 0.2
            enough = reads + 10  # also where the machine gives little time
            while time.monotonic() < until or reads < enough:
                with watcher.locked():
                    held = sum(slot.held for slot in watcher.members().values())
                assert held <= LIMIT
                most, reads = max(most, held), reads + 1
                assert all(worker.poll() is None for worker in workers)
            # SIGKILL comes at any moment: also in the middle of an update, and with the file locked.
            victim = workers.pop(chance.randrange(len(workers)))
            victim.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
            victim.wait()
            assert victim.pid not in {slot.pid for slot in watcher.members().values()}
            workers.append(_start(path, seed * 1000 + number))
        until = time.monotonic() + 60
        while most <= LIMIT // 2:
            assert time.monotonic() < until, "there was a load"
            most = max(most, sum(slot.held for slot in watcher.members().values()))
        assert reads > 50
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert not watcher.members()
    # What the dead held is there again, whole.
    member = BudgetMember(path, "last", 2**40)
    assert member.part().claim(LIMIT, 2**40)
    member.close()
    watcher.close()


def test_claims_from_many_processes_at_once_are_counted_one_by_one(tmp_path: Path) -> None:
    """Each claims a byte at a time until it is refused: together they get exactly the limit."""
    tmp_path.chmod(0o700)
    path = tmp_path / "shared@host.budget"
    BudgetMember(path, "first", 2**40, limit=1000).close()
    script = (
        "import sys\nfrom pathlib import Path\nfrom farspan.kv.memory.budget.member import BudgetMember\n"
        "member = BudgetMember(Path(sys.argv[1]), 'one', 2**40)\npart = member.part()\n"
        "while part.claim(1, 2**40): pass\nprint(part.held, flush=True)\nsys.stdin.read()\n"
    )
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ},
        )
        for _ in range(4)
    ]
    got = [int(claimer.stdout.readline()) for claimer in claimers if claimer.stdout is not None]
    for claimer in claimers:
        claimer.communicate("")
    # Who is refused for fairness may leave a remainder of a byte a member.
    assert 1000 - len(claimers) <= sum(got) <= 1000
