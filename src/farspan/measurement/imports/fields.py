"""Reading values out of JSON that another program wrote, with errors that say where and what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farspan.errors import InputError

_LARGEST = 2**53  # whole numbers above are not exact in JSON, and nothing counted here comes near


class Fields:
    """A JSON object and where it stands, for reading values by name. Null and missing are the same: None.

    Args:
        values: The decoded object.
        where: The file and the place in it, for error messages.

    Raises:
        InputError: It is not an object. Every method raises it when a value is of another kind.
    """

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, Mapping):
            raise InputError(f"{where} is {_kind(values)}, not an object", _FIX)
        self._values = values
        self.where = where

    def has(self, name: str) -> bool:
        """Tell whether there is a value that is not null."""
        return self._values.get(name) is not None

    def text(self, name: str) -> str | None:
        """Return a string."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        # Half of a surrogate pair is valid JSON and cannot be written as UTF-8.
        return None if value is None else value.encode("utf-8", "replace").decode()

    def number(self, name: str) -> float | None:
        """Return a finite number of 0 or more."""
        return self._number(name, self._values.get(name))

    def count(self, name: str) -> int | None:
        """Return a whole number of 0 or more."""
        return self._count(name, self._values.get(name))

    def inner(self, name: str) -> Fields:
        """Return an object; one without values when it is missing."""
        value = self._values.get(name)
        return Fields({} if value is None else value, f"{self.where}: {name}")

    def items(self, name: str) -> list[Any] | None:
        """Return a list."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, list):
            raise self._wrong(name, value, "a list")
        return value

    def numbers(self, name: str) -> tuple[float | None, ...] | None:
        """Return a list of numbers of 0 or more, or nulls."""
        values = self.items(name)
        return None if values is None else tuple(self._number(name, value) for value in values)

    def counts(self, name: str) -> tuple[int | None, ...] | None:
        """Return a list of whole numbers of 0 or more, or nulls."""
        values = self.items(name)
        return None if values is None else tuple(self._count(name, value) for value in values)

    def scalars(self) -> dict[str, object]:
        """Return what is a string, a finite number or a truth value, for keeping beside the results."""
        kept: dict[str, object] = {}
        for name, value in self._values.items():
            if isinstance(value, bool | str) or _is_number(value):
                kept[_clean(name)] = _clean(value) if isinstance(value, str) else value
        return kept

    def figures(self) -> dict[str, float]:
        """Return every finite number."""
        return {
            _clean(name): float(value)
            for name, value in self._values.items()
            if _is_number(value) and not isinstance(value, bool)
        }

    def _number(self, name: str, value: Any) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, value, "a number")
        if not _is_number(value) or value < 0:
            raise self._wrong(name, value, "a finite number of 0 or more")
        return float(value)

    def _count(self, name: str, value: Any) -> int | None:
        number = self._number(name, value)
        if number is None:
            return None
        if number != int(number):
            raise self._wrong(name, value, "a whole number")
        return int(number)

    def _wrong(self, name: str, value: Any, wanted: str) -> InputError:
        return InputError(f"{self.where}: {name} is {_kind(value)}, not {wanted}", _FIX)


_FIX = "import the file as the tool wrote it"


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float):
        return False
    return -_LARGEST <= value <= _LARGEST  # NaN and the infinities fail both


def _clean(text: str) -> str:
    return str(text).encode("utf-8", "replace").decode()


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    for kind, name in ((bool, "a truth value"), (str, "a string"), (list, "a list")):
        if isinstance(value, kind):
            return name
    return f"{value!r}" if isinstance(value, float) or abs(value) < _LARGEST else "a huge number"
