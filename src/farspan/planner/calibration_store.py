"""The calibrations of this machine: one small file in the user's data folder, written whole or not at all."""

from __future__ import annotations

import contextlib
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farspan.errors import InputError, UnsupportedError
from farspan.planner.calibration import Calibration, Calibrations

FORMAT_VERSION = 1
_VERSION_KEY, _ENTRIES_KEY = "format_version", "calibrations"
_LARGEST_FILE = 2**20
_LONGEST_TEXT = 200
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
# What each figure may be: above the first, up to the second.
_RANGES: Mapping[str, tuple[float, float]] = {
    "ranks": (0, 1024),
    "linear": (0.0, 1.0),
    "attention": (0.0, 1.0),
    "decode": (0.0, 1.0),
    "step_s": (-1e-12, 60.0),
    "launches": (0.0, 1000.0),
    "outside_torch_bytes": (-(2.0**40), 2.0**40),
    "graphs_share": (-1e-12, 100.0),
}
_WHOLE = ("ranks", "outside_torch_bytes")


def calibration_path(environment: Mapping[str, str] | None = None) -> Path:
    """Where calibrations are: farspan/calibration.json in XDG_DATA_HOME, else in ~/.local/share."""
    environment = os.environ if environment is None else environment
    given = environment.get("XDG_DATA_HOME")
    home = Path(given) if given else Path(environment.get("HOME", "~")).expanduser() / ".local" / "share"
    return home / "farspan" / "calibration.json"


def load_calibrations(path: Path | None = None) -> Calibrations:
    """Every calibration of this machine; nothing where none was kept.

    Raises:
        UnsupportedError: Another farspan wrote the file.
        InputError: It cannot be read, or is nothing that farspan wrote.
    """
    path = path or calibration_path()
    try:
        # Without blocking: nobody may write into a pipe of that name.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refused(path, "is not a file")
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror or error})") from error
    if len(data) > _LARGEST_FILE:
        raise _refused(path, "is larger than farspan writes it")
    import orjson

    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _refused(path, f"is not JSON ({error})") from error
    version = value.get(_VERSION_KEY) if isinstance(value, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise _refused(path, f"has no {_VERSION_KEY}")
    if version != FORMAT_VERSION:
        raise UnsupportedError(
            f"{path} has format version {version}, and this farspan reads {FORMAT_VERSION}",
            "calibrate again, or plan with --no-calibration",
        )
    entries = value.get(_ENTRIES_KEY)
    if not isinstance(entries, list):
        raise _refused(path, f"has no list of {_ENTRIES_KEY}")
    return tuple(_read(entry, f"{_ENTRIES_KEY}[{index}]", path) for index, entry in enumerate(entries))


def save_calibration(calibration: Calibration, path: Path | None = None) -> Path:
    """Keep a calibration in place of any older one of the same conditions.

    Returns:
        The file.

    Raises:
        InputError: The calibration says nothing or what cannot be, the file there is not farspan's, or it cannot be
            written.
    """
    path = path or calibration_path()
    if not calibration.fitted:
        raise InputError(
            f"nothing was fitted for {calibration.key}", "measure prompts of two lengths at least"
        )
    _read(calibration._asdict(), "it", path)
    others = [one for one in load_calibrations(path) if one.key != calibration.key]
    kept = [one._asdict() for one in sorted((*others, calibration), key=lambda one: one.key)]
    import orjson

    data = orjson.dumps({_VERSION_KEY: FORMAT_VERSION, _ENTRIES_KEY: kept}, option=orjson.OPT_INDENT_2)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data + b"\n")
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({error.strerror or error})", "set XDG_DATA_HOME to another folder"
        ) from error
    return path


def _read(entry: Any, place: str, path: Path) -> Calibration:
    """One calibration, every figure within what it can be.

    Raises:
        InputError: It is not.
    """
    if not isinstance(entry, dict):
        raise _refused(path, f"cannot be used: {place} is not an object")
    for name in Calibration._fields:
        value, where = entry.get(name), f"{place}.{name}"
        if name in ("eager", "experts"):
            good = isinstance(value, bool)
        elif name in _RANGES:
            good = (value is None and name != "ranks") or _is_within(name, value)
        else:
            good = isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable()
            good = good and (name != "date" or _DATE.fullmatch(str(value)) is not None)
        if not good:
            raise _refused(path, f"cannot be used: {where} is not what farspan writes")
    return Calibration(**{name: entry[name] for name in Calibration._fields if name in entry})


def _is_within(name: str, value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    if name in _WHOLE and not isinstance(value, int):
        return False
    above, most = _RANGES[name]
    return above < value <= most


def _refused(path: Path, fault: str) -> InputError:
    return InputError(f"{path} {fault}", "remove it and calibrate again, or plan with --no-calibration")
