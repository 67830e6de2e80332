"""The file of a budget: what the kernel keeps true, and every file that is not one."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from farspan.errors import InputError
from farspan.kv.memory.budget.budget_file import (
    FOLDER_VARIABLE,
    SLOTS,
    BudgetError,
    BudgetFile,
    MemberSlot,
    budget_folder,
)
from farspan.kv.memory.budget.member import BudgetMember
from farspan.kv.memory.budget.settings import BudgetSettings, budget_settings

GIB = 2**30


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "shared@host.budget"


@pytest.fixture
def member(path: Path) -> Iterator[BudgetMember]:
    one = BudgetMember(path, "one", 100 * GIB, limit=10 * GIB)
    yield one
    one.close()


def test_members_see_each_other(path: Path, member: BudgetMember) -> None:
    other = BudgetMember(path, "other", 100 * GIB, limit=50 * GIB)  # the limit is the first's
    assert member.part().claim(6 * GIB, 100 * GIB)
    assert not other.part().claim(5 * GIB, 100 * GIB)
    assert other.part().claim(4 * GIB, 100 * GIB)
    reader = BudgetFile(path)
    assert reader.header().limit == 10 * GIB
    assert {(slot.name, slot.held, slot.pid) for slot in reader.members().values()} == {
        ("one", 6 * GIB, os.getpid()),
        ("other", 4 * GIB, os.getpid()),
    }
    other.close()
    assert [slot.name for slot in reader.members().values()] == ["one"]
    reader.close()


def test_a_promise_is_kept_free_and_used_up(path: Path, member: BudgetMember) -> None:
    part, other = member.part(), BudgetMember(path, "other", 100 * GIB)
    assert part.promise(8 * GIB, 100 * GIB)
    assert not other.part().claim(3 * GIB, 100 * GIB)
    assert part.claim(3 * GIB, 100 * GIB)
    assert (part.held, part.promised) == (3 * GIB, 5 * GIB)
    assert not part.promise(8 * GIB, 100 * GIB)
    assert part.promise(2 * GIB, 100 * GIB)
    assert other.part().claim(5 * GIB, 100 * GIB)
    part.give(3 * GIB)
    assert part.held == 0
    other.close()


def test_free_memory_of_the_device_is_a_limit_too(path: Path, member: BudgetMember) -> None:
    assert not member.part().claim(3 * GIB, 2 * GIB)
    assert member.part().claim(2 * GIB, 2 * GIB)


def test_floors_that_do_not_fit_are_refused(path: Path, member: BudgetMember) -> None:
    other = BudgetMember(path, "other", 100 * GIB, floor=7 * GIB)
    with pytest.raises(InputError, match=r"a floor of 4\.0 GiB does not fit the budget .* of 10\.0 GiB"):
        BudgetMember(path, "third", 100 * GIB, floor=4 * GIB)
    assert not member.part().claim(4 * GIB, 100 * GIB)
    assert member.part().claim(3 * GIB, 100 * GIB)
    other.close()


def test_there_is_an_end_to_members(path: Path) -> None:
    held = [BudgetMember(path, f"m{number}", GIB) for number in range(SLOTS)]
    with pytest.raises(BudgetError, match="has 64 members already"):
        BudgetMember(path, "one too many", GIB)
    held.pop().close()
    held.append(BudgetMember(path, "again", GIB))
    for each in held:
        each.close()


# --- hostile files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "it has 0 bytes"),
        (b"\xff" * 100, "it has 100 bytes"),
        (b"\xff" * ((SLOTS + 1) * 256), "it is no budget file"),
        (b"\0" * ((SLOTS + 1) * 256), "it is no budget file"),
        (b"\0" * 10**6, "it has"),
    ],
    ids=["empty", "short", "garbage", "zeros", "long"],
)
def test_a_file_that_is_none_is_refused(path: Path, content: bytes, complaint: str) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BudgetError, match=complaint):
        BudgetMember(path, "one", GIB)


def test_an_absurd_limit_is_refused(path: Path, member: BudgetMember) -> None:
    member.close()
    with path.open("r+b") as file:
        file.seek(16)
        file.write(struct.pack("<Q", 2**63))
    with pytest.raises(BudgetError, match="it allows 9223372036854775808 bytes"):
        BudgetMember(path, "one", GIB)


def test_files_that_are_not_ones_own_are_refused(path: Path, tmp_path: Path, member: BudgetMember) -> None:
    link = tmp_path / "link@host.budget"
    link.symlink_to(path)
    with pytest.raises(BudgetError, match="cannot be opened"):
        BudgetMember(link, "one", GIB)
    pipe = tmp_path / "pipe@host.budget"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(BudgetError, match="is not a file"):
        BudgetMember(pipe, "one", GIB)
    path.chmod(0o644)
    with pytest.raises(BudgetError, match="must be this user's alone"):
        BudgetFile(path)


def test_a_folder_that_others_write_to_is_refused(path: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(BudgetError, match="not a folder that only this user can write to"):
        BudgetMember(path, "one", GIB)
    tmp_path.chmod(0o700)
    link = tmp_path / "folder"
    link.symlink_to(tmp_path)
    with pytest.raises(BudgetError, match="not a folder"):
        BudgetMember(link / "shared@host.budget", "one", GIB)
    with pytest.raises(BudgetError, match="cannot be made"):
        BudgetMember(tmp_path / "no" / "such" / "shared@host.budget", "one", GIB)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_refused(path: Path, member: BudgetMember) -> None:
    os.chown(path, 12345, 12345)
    with pytest.raises(BudgetError, match="belongs to user 12345"):
        BudgetFile(path)


@pytest.mark.parametrize("harm", ["truncated", "garbage", "absurd"])
def test_a_file_that_is_harmed_stops_growth_and_nothing_else(
    path: Path, member: BudgetMember, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    neighbour = BudgetMember(path, "neighbour", 100 * GIB)
    part = member.part()
    assert part.claim(2 * GIB, 100 * GIB)
    if harm == "truncated":
        os.truncate(path, 10)
    elif harm == "garbage":
        path.write_bytes(os.urandom((SLOTS + 1) * 256))
    else:
        with path.open("r+b") as file:
            file.seek(256 * 2 + 16)  # what the second slot says that it holds
            file.write(struct.pack("<Q", 2**60))
    assert not part.claim(GIB, 100 * GIB)
    assert member.outlook(100 * GIB) is None
    part.report(0, GIB)
    part.give(GIB)
    assert part.held == GIB
    complaints = [record for record in caplog.records if "is damaged" in record.getMessage()]
    assert len(complaints) == 1, "the same is said once"
    # Removed, as the message says, it is made anew, with what is held.
    path.unlink()
    assert part.claim(GIB, 100 * GIB)
    reader = BudgetFile(path)
    assert [slot.held for slot in reader.members().values()] == [2 * GIB]
    reader.close()
    neighbour.close()


def test_a_member_that_is_stopped_while_it_has_the_lock_stops_nobody(
    path: Path, member: BudgetMember
) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from farspan.kv.memory.budget.budget_file import BudgetFile\n"
        "file = BudgetFile(Path(sys.argv[1]))\nwith file.locked():\n"
        "    print('has it', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "has it\n"
        holder.send_signal(signal.SIGSTOP)
        part, since = member.part(), time.monotonic()
        assert not part.claim(GIB, 100 * GIB)
        assert time.monotonic() - since < 60, "two seconds, as far as this process got them"
        holder.kill()
        holder.wait()
        assert part.claim(GIB, 100 * GIB)


def test_a_child_does_not_keep_its_parents_place(path: Path) -> None:
    script = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from farspan.kv.memory.budget.member import BudgetMember\n"
        "member = BudgetMember(Path(sys.argv[1]), 'parent', 2**30)\n"
        "assert member.part().claim(2**20, 2**30)\n"
        "if os.fork() == 0:\n    assert not member.part().claim(1, 2**30)\n    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        reader = BudgetFile(path)
        assert [slot.pid for slot in reader.members().values()] == [parent.pid]
        parent.kill()
        parent.wait()
        try:
            assert not reader.members()
        finally:
            os.kill(child, signal.SIGKILL)
            reader.close()


def test_names_of_any_length_and_writing_are_kept_readable(path: Path) -> None:
    one = BudgetMember(path, "ü" * 100, GIB)
    reader = BudgetFile(path)
    (slot,) = reader.members().values()
    assert slot.name.startswith("ü" * 31)
    reader.close()
    one.close()


def test_a_wish_is_forgotten_when_it_is_not_said_again() -> None:
    slot = MemberSlot(pid=1, joined=0, name="one", held=10, wished=5, wished_at=100.0)
    assert slot.claim(101.0).wished == 5
    assert slot.claim(104.0).wished == 0
    assert slot.claim(99.0).wished == 0, "a wish from the future is none"


# --- settings ----------------------------------------------------------------------------------------------------


def test_the_environment_names_a_budget() -> None:
    assert budget_settings({}) is None
    assert budget_settings(
        {"FARSPAN_BUDGET": "shared", "FARSPAN_BUDGET_LIMIT": "64GiB", "FARSPAN_BUDGET_FLOOR": "512MiB"}
    ) == BudgetSettings("shared", 64 * GIB, GIB // 2)
    assert budget_folder({FOLDER_VARIABLE: "/run/farspan"}) == Path("/run/farspan")
    assert budget_folder({}) == Path(f"/dev/shm/farspan-{os.geteuid()}")


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"FARSPAN_BUDGET": "../x"}, "is not the name of a budget"),
        ({"FARSPAN_BUDGET": "x" * 60}, "is not the name of a budget"),
        ({"FARSPAN_BUDGET_LIMIT": "1GiB"}, "FARSPAN_BUDGET is not"),
        ({"FARSPAN_BUDGET": "x", "FARSPAN_BUDGET_LIMIT": "much"}, "FARSPAN_BUDGET_LIMIT: 'much' is not"),
        (
            {"FARSPAN_BUDGET": "x", "FARSPAN_BUDGET_LIMIT": "1GiB", "FARSPAN_BUDGET_FLOOR": "2GiB"},
            "is above the budget's limit",
        ),
    ],
)
def test_settings_that_cannot_be_read_are_refused(environment: dict[str, str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        budget_settings(environment)
