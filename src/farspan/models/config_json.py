"""A config.json from anybody's hands: read within bounds, so that what follows ends soon and in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from farspan.errors import InputError, NotFoundError

MAX_FILE_BYTES = 16 * 2**20
MAX_DEPTH = 32
MAX_VALUES = 100_000
MAX_WHOLE_NUMBER = 10**12
MAX_NUMBER = 1e40
# Several times what the largest published models have. Each layer is an object of its own in a plan.
MAX_LAYERS = 1000
MAX_HEADS_OR_EXPERTS = 65_536

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
# Limits of Mamba's time step, infinite in published configs; nothing is computed from them.
_UNBOUNDED = frozenset({"time_step_limit"})
_COUNTS = (
    (re.compile(r"(^|_)(layers|n_layer|blocks|depth)($|_)"), MAX_LAYERS),
    (re.compile(r"(^|_)(heads|n_head|experts)($|_)"), MAX_HEADS_OR_EXPERTS),
)


def read_config_json(file: Path) -> dict[str, object]:
    """Read a config.json.

    Raises:
        NotFoundError: There is no such file.
        InputError: It cannot be read, is too large, or `parse_config_json` refuses it.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(
            f"{file} cannot be read: it does not exist", "give a config.json or its folder"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error})", "give a config.json or its folder") from None
    return parse_config_json(content, str(file))


def parse_config_json(content: bytes, source: str) -> dict[str, object]:
    """Return the JSON object of a config.json.

    Args:
        content: The file's bytes.
        source: What to call it in errors.

    Raises:
        InputError: It is too large, not JSON, or not an object.
    """
    if len(content) > MAX_FILE_BYTES:
        raise InputError(
            f"{source} is larger than {MAX_FILE_BYTES // 2**20} MiB", "give the model's config.json"
        )
    try:
        config = json.loads(content)
    except RecursionError:
        raise InputError(f"{source} is nested too deeply", "give the model's config.json") from None
    except ValueError as error:  # also bytes that are no text, and numbers of thousands of digits
        raise InputError(f"{source} is not JSON ({error})", "give the model's config.json") from None
    if not isinstance(config, dict):
        raise InputError(f"{source} is not a JSON object", "give the model's config.json")
    return config


def check_bounds(config: Mapping[str, object], source: str) -> None:
    """Check that nothing in a config is so large or so deep that reading or planning it would not end.

    Raises:
        InputError: A value is out of bounds; it is named.
    """
    for path, value in _values(config, source):
        if not _UNBOUNDED.isdisjoint(path):
            continue
        _check(path, value, source)


def _values(config: Mapping[str, object], source: str) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield every value that is not an object or a list, with the names that lead to it."""
    waiting: list[tuple[tuple[str, ...], object]] = [((), config)]
    count = 0
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, Mapping | list | tuple):
            count += len(value)
            if count > MAX_VALUES:
                raise InputError(
                    f"{source} has more than {MAX_VALUES:,} values", "give the model's config.json"
                )
        if len(path) > MAX_DEPTH:
            raise InputError(f"{source} is nested too deeply", "give the model's config.json")
        if isinstance(value, Mapping):
            waiting += [((*path, str(name)), item) for name, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [((*path, ""), item) for item in value]
        else:
            yield path, value


def _check(path: tuple[str, ...], value: object, source: str) -> None:
    if isinstance(value, str) and _HALF_CHARACTER.search(value):
        raise InputError(
            f"{source}: field {'.'.join(path)[:200]!r} is text that is no Unicode", "check the config"
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    name = ".".join(part for part in path if part)[:200]
    if isinstance(value, float):
        if not abs(value) <= MAX_NUMBER:
            _out_of_bounds(source, name, value)
        whole = value.is_integer()
    else:
        if abs(value) > MAX_WHOLE_NUMBER:
            _out_of_bounds(source, name, value)
        whole = True
    field = next((part for part in reversed(path) if part), "")  # an entry of a list counts as its list
    for pattern, most in _COUNTS:
        if whole and value > most and pattern.search(field):
            raise InputError(f"{source}: field {name} is {value}, above {most}", "check the config")


def _out_of_bounds(source: str, name: str, value: float) -> NoReturn:
    shown = f"{value!r}" if isinstance(value, float) else f"a number of {value.bit_length()} bits"
    raise InputError(f"{source}: field {name} is {shown}, beyond any model's", "check the config")
