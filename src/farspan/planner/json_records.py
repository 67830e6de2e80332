"""Frozen dataclasses as JSON objects and back: one key a field, of the field's name."""

from __future__ import annotations

import types
from collections.abc import Collection, Hashable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from farspan.errors import InputError

T = TypeVar("T")


def write_record(record: Any, keys: Collection[str] | None = None) -> dict[str, Any]:
    """Write a dataclass as a JSON object.

    Args:
        record: The dataclass instance.
        keys: The fields to write, in this order; None for all of them.
    """
    names = [field.name for field in fields(record)] if keys is None else keys
    return {name: _write(getattr(record, name)) for name in names}


def _write(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return write_record(value)
    if isinstance(value, tuple):
        return [_write(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _write(item) for key, item in value.items()}
    return value


class RecordReader:
    """Reads JSON objects into dataclasses.

    Args:
        what: What is read, for messages: "the plan".
        fix: How to get a good one, for messages.
        strict: Whether a key that is missing or of another type is an error. Without it such a field gets its default,
            or else the empty value of its type.
    """

    def __init__(self, what: str, fix: str, *, strict: bool) -> None:
        self._what = what
        self._fix = fix
        self._strict = strict

    def read(
        self,
        record: type[T],
        value: Any,
        where: str = "",
        *,
        required: Collection[str] = (),
        known: Mapping[str, Any] = MappingProxyType({}),
    ) -> T:
        """Read one object.

        Args:
            record: The dataclass to make.
            value: The JSON object.
            where: Its place in the document, for messages.
            required: Keys that must be there although their fields have defaults.
            known: Values of fields that are not read from the object.

        Raises:
            InputError: The value is no object, or the reader is strict and a key is missing or of another type.
        """
        if not isinstance(value, dict):
            if self._strict:
                raise self._error(where or "it", "is not a JSON object")
            value = {}
        hints = _type_hints(cast(Hashable, record))
        read = dict(known)
        for field in fields(record):  # type: ignore[arg-type]
            name = field.name
            if name in known:
                continue
            place = f"{where}.{name}" if where else name
            optional = field.default is not MISSING or field.default_factory is not MISSING
            if name not in value:
                if self._strict and (not optional or name in required):
                    raise self._error(place, "is missing")
                if not optional:
                    read[name] = self._empty(hints[name])
                continue
            good, converted = self._convert(hints[name], value[name], place)
            if good:
                read[name] = converted
            elif self._strict:
                raise self._error(place, f"is not {_describe(hints[name])}")
            elif not optional:
                read[name] = self._empty(hints[name])
        return record(**read)

    def has(self, value: Mapping[str, Any], key: str) -> bool:
        """Whether the document has a key at its top.

        Raises:
            InputError: It has not, and the reader is strict.
        """
        if key not in value and self._strict:
            raise self._error(key, "is missing")
        return key in value

    def _error(self, place: str, fault: str) -> InputError:
        return InputError(f"{self._what} cannot be used: {place} {fault}", self._fix)

    def _convert(self, hint: Any, value: Any, place: str) -> tuple[bool, Any]:
        """Whether a value is of a type, and the value in it."""
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            return self._convert_union(get_args(hint), value, place)
        if is_dataclass(hint) and isinstance(hint, type):
            good = isinstance(value, dict)
            return good, self.read(hint, value, place) if good else None
        if origin is tuple:
            return self._convert_list(get_args(hint)[0], value, place)
        if origin is not None and issubclass(origin, Mapping):
            return self._convert_object(get_args(hint)[1], value, place)
        if hint is float:
            good = isinstance(value, int | float) and not isinstance(value, bool)
            return good, float(value) if good else None
        return (isinstance(value, hint) and (hint is bool or not isinstance(value, bool))), value

    def _convert_union(self, hints: tuple[Any, ...], value: Any, place: str) -> tuple[bool, Any]:
        if value is None:
            return type(None) in hints, None
        # An exact type first, so that a whole number stays one where both int and float are good.
        for hint in sorted(hints, key=lambda hint: hint is not type(value)):
            if hint is not type(None):
                good, converted = self._convert(hint, value, place)
                if good:
                    return True, converted
        return False, None

    def _convert_list(self, hint: Any, value: Any, place: str) -> tuple[bool, Any]:
        if not isinstance(value, list):
            return False, None
        items = []
        for index, item in enumerate(value):
            good, converted = self._convert(hint, item, f"{place}[{index}]")
            if good:
                items.append(converted)
            elif self._strict:
                raise self._error(f"{place}[{index}]", f"is not {_describe(hint)}")
        return True, tuple(items)

    def _convert_object(self, hint: Any, value: Any, place: str) -> tuple[bool, Any]:
        if not isinstance(value, dict):
            return False, None
        items = {}
        for key, item in value.items():
            good, converted = self._convert(hint, item, f"{place}.{key}")
            if good:
                items[key] = converted
            elif self._strict:
                raise self._error(f"{place}.{key}", f"is not {_describe(hint)}")
        return True, items

    def _empty(self, hint: Any) -> Any:
        """The value of a field that a tolerant reader did not find."""
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            return None
        if is_dataclass(hint):
            return self.read(cast(type, hint), {})
        if origin is tuple:
            return ()
        if origin is not None and issubclass(origin, Mapping):
            return {}
        return hint()


@cache
def _type_hints(record: Any) -> dict[str, Any]:
    return get_type_hints(record)


def _describe(hint: Any) -> str:
    """A type in JSON's words."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(part) for part in get_args(hint)))
    names = {
        str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null",
    }  # fmt: skip
    return names.get(hint) or ("an array" if get_origin(hint) is tuple else "an object")
