"""The processes of a server on this machine: how busy each is, and where its Python code stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_MOST = 256
_STACK_S = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")
_FRAME = re.compile(r"^\s{1,40}+(?P<function>[^(]{1,200}+)\((?P<file>[^:)]{1,300}+):(?P<line>\d{1,9})\)")
_LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    Args:
        pid: Its id.
        name: What it calls itself (vLLM and SGLang set titles), else its program.
        cpu_share: Share of one core it used while it was watched; 1.0 is a core.
        state: The kernel's letter: R runs, S sleeps, D waits for a disk or driver, Z has ended.
    """

    pid: int
    name: str
    cpu_share: float
    state: str


def process_tree(root: int) -> tuple[int, ...]:
    """A process and all below it; empty when there is none."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            fields = _stat(int(entry.name))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    if _stat(root) is None:
        return ()
    found: list[int] = []
    todo = [root]
    while todo and len(found) < _MOST:
        pid = todo.pop(0)
        found.append(pid)
        todo.extend(sorted(children.get(pid, ())))
    return tuple(found)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: state, parent, ...; None when it has gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def cpu_ticks(pids: tuple[int, ...]) -> dict[int, int]:
    """User and system time of each process so far, in clock ticks."""
    found = {}
    for pid in pids:
        fields = _stat(pid)
        if fields is not None and len(fields) > 12:
            found[pid] = int(fields[11]) + int(fields[12])
    return found


def watched(before: dict[int, int], after: dict[int, int], seconds: float) -> tuple[Process, ...]:
    """The processes that were there both times, and how busy they were between."""
    return tuple(
        Process(pid, _name(pid), (after[pid] - ticks) / _TICKS / seconds, (_stat(pid) or ["Z"])[0])
        for pid, ticks in before.items()
        if pid in after
    )


def _name(pid: int) -> str:
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    text = b" ".join(word for word in words if word).decode("utf-8", "replace")
    return text[:120]


def listening_ports(pids: tuple[int, ...]) -> tuple[int, ...]:
    """TCP ports these processes listen on, the lowest first."""
    inodes: set[str] = set()
    for pid in pids:
        try:
            links = [str(link.readlink()) for link in (_PROC / str(pid) / "fd").iterdir()]
        except OSError:
            continue
        inodes.update(link[8:-1] for link in links if link.startswith("socket:["))
    ports = set()
    for pid in pids[:1]:
        for table in ("tcp", "tcp6"):
            try:
                lines = (_PROC / str(pid) / "net" / table).read_text().splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                fields = line.split()
                if len(fields) > 9 and fields[3] == _LISTENING and fields[9] in inodes:
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return tuple(sorted(ports))


def owner_of_port(port: int) -> int | None:
    """The process of this machine that listens on a port, the oldest of several; None when nobody we may see does."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for entry in sorted(
        (one for one in _PROC.iterdir() if one.name.isdecimal()), key=lambda one: int(one.name)
    ):
        try:
            if any(str(link.readlink()) in inodes for link in (entry / "fd").iterdir()):
                return int(entry.name)
        except OSError:
            continue
    return None


def parse_stack(dump: str) -> tuple[tuple[str, str], ...]:
    """(file, function) of the main thread of a py-spy dump, innermost first."""
    frames: list[tuple[str, str]] = []
    in_main = False
    for line in dump.splitlines():
        if line.startswith("Thread"):
            if in_main:
                break
            in_main = "MainThread" in line
        elif in_main:
            match = _FRAME.match(line)
            if match is not None:
                frames.append((match["file"], match["function"].strip()))
    return tuple(frames)


def stack_of(pid: int) -> tuple[tuple[str, str], ...]:
    """Where the main thread of a Python process stands, by py-spy; empty when it is not installed or not allowed."""
    program = shutil.which("py-spy")
    if program is None:
        return ()
    try:
        done = subprocess.run(
            [program, "dump", "--nonblocking", "--pid", str(pid)],
            capture_output=True,
            timeout=_STACK_S,
            text=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_stack(done.stdout)
