"""Strict reading of a config.json: each field is read, harmless, or refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NoReturn

from farspan.errors import UnsupportedError
from farspan.models.families.field_names import is_harmless, names_a_cache, spellings

_MISSING = object()


class ConfigReader:
    """One level of a config, remembering which fields were read.

    Args:
        fields: The JSON object.
        source: What to call the config in errors.
        path: Dotted path of this level, with a trailing dot, empty at the top.
        allowed: Fields the user says cannot change memory.
        assumed: Collects the unread fields of a config that is read without a family; None for a strict reading.
    """

    def __init__(
        self,
        fields: Mapping[str, object],
        source: str,
        path: str = "",
        allowed: frozenset[str] = frozenset(),
        assumed: list[str] | None = None,
    ) -> None:
        self.fields = fields
        self.source = source
        self._path = path
        self._allowed = allowed
        self._assumed = assumed
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return any(self.fields.get(spelling) is not None for spelling in spellings(name))

    def refuse(self, name: str, why: str, fix: str = "") -> NoReturn:
        """Raise an UnsupportedError that names the field."""
        raise UnsupportedError(f"{self.source}: field {self._path}{name} {why}", fix)

    def _value(self, name: str, default: object) -> object:
        value = None
        for spelling in spellings(name):
            self._read.add(spelling)
            if value is None:
                value = self.fields.get(spelling)
        if value is None:
            if default is _MISSING:
                self.refuse(name, "is missing", "use the model's complete config.json")
            return default
        return value

    def integer(self, name: str, default: int | object = _MISSING, *, zero: bool = False) -> int:
        """A positive whole number (or zero, where allowed); null counts as absent."""
        value = self._value(name, default)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]  # one entry a layer, all the same
        if isinstance(value, bool) or not isinstance(value, int):
            if not (isinstance(value, float) and value.is_integer()):
                self.refuse(name, f"is {value!r}, not a whole number")
            value = int(value)
        if value < 0 or (value == 0 and not zero and value != default):
            self.refuse(name, f"is {value}, not positive")
        return value

    def number(self, name: str, default: float | object = _MISSING) -> float:
        """A number; null counts as absent."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(name, f"is {value!r}, not a number")
        return float(value)

    def flag(self, name: str, default: bool | object = _MISSING) -> bool:
        """True or false; null counts as absent."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            self.refuse(name, f"is {value!r}, not true or false")
        return value

    def text(self, name: str, default: str | object = _MISSING) -> str:
        """A string; null counts as absent."""
        value = self._value(name, default)
        if not isinstance(value, str):
            self.refuse(name, f"is {value!r}, not a string")
        return value

    def integers(self, name: str, default: Iterable[int] | object = _MISSING) -> list[int]:
        """A list of whole numbers; null counts as absent."""
        value = self._value(name, default)
        if not isinstance(value, list | tuple) or not all(isinstance(item, int) for item in value):
            self.refuse(name, "is not a list of whole numbers")
        return [int(item) for item in value]

    def texts(self, name: str, default: Iterable[str] | object = _MISSING) -> list[str]:
        """A list of strings; null counts as absent."""
        value = self._value(name, default)
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            self.refuse(name, "is not a list of strings")
        return [str(item) for item in value]

    def per_layer(self, name: str, count: int, allowed: Iterable[object]) -> list[object]:
        """A list with one entry a layer, each among `allowed`."""
        value = self._value(name, _MISSING)
        if not isinstance(value, list | tuple) or len(value) != count:
            self.refuse(name, f"is not a list of {count} entries, one a layer")
        known = list(allowed)
        for item in value:
            if item not in known:
                self.refuse(name, f"has an entry {item!r}; known are {', '.join(map(str, known))}")
        return list(value)

    def section(self, name: str) -> ConfigReader | None:
        """A nested object, or None when absent or null. Its own fields are checked by its own `finish`."""
        value = self._value(name, None)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.refuse(name, "is not an object")
        return ConfigReader(value, self.source, f"{self._path}{name}.", self._allowed, self._assumed)

    def expect(self, name: str, *allowed: object) -> None:
        """Accept the field only when absent, null, or one of `allowed`: others change the layout."""
        value = self._value(name, None)
        if value is not None and value not in allowed:
            names = ", ".join(map(repr, allowed)) or "absent"
            self.refuse(name, f"is {value!r}, which farspan does not model", f"it knows {names}")

    def ignore(self, *names: str) -> None:
        """Declare fields that change no byte of weights or KV for this family."""
        for name in names:
            self._read.update(spellings(name))

    def assume(self) -> None:
        """Pass over fields nobody reads, and remember them, as for a config without a family."""
        if self._assumed is None:
            self._assumed = []

    def assumed_fields(self) -> list[str]:
        """The fields that were passed over."""
        return sorted(set(self._assumed or ()))

    def with_fields(self, fields: Mapping[str, object]) -> ConfigReader:
        """This level with other fields, of which none has been read."""
        return ConfigReader(fields, self.source, self._path, self._allowed, self._assumed)

    def set_default(self, name: str, value: object) -> None:
        """Give a field that is absent a value."""
        if name not in self:
            self.fields = {**self.fields, name: value}

    def pending(self, name: str) -> bool:
        """Whether the field is there and nobody has read it."""
        return name in self.fields and name not in self._read

    def unread(self) -> list[str]:
        """Dotted names of the fields nobody read and that may change memory."""
        return sorted(
            self._path + name
            for name, value in self.fields.items()
            if name not in self._read and not is_harmless(name, value) and not self._is_allowed(name)
        )

    def _is_allowed(self, name: str) -> bool:
        return name in self._allowed or self._path + name in self._allowed

    def finish(self, *others: ConfigReader) -> None:
        """Refuse the config if it, or one of `others`, has a field nobody read.

        Raises:
            UnsupportedError: Some field might change memory; all such fields are named.
        """
        unread = [name for reader in (self, *others) for name in reader.unread()]
        if self._assumed is not None:
            self._assumed.extend(name for name in unread if not names_a_cache(name))
            unread = [name for name in unread if names_a_cache(name)]
        if unread:
            one = len(unread) == 1
            raise UnsupportedError(
                f"{self.source}: {'field' if one else 'fields'} {', '.join(unread)} "
                f"{'is not one' if one else 'are not ones'} farspan knows for this model",
                "nothing was guessed, since memory may depend on "
                f"{'it' if one else 'them'}; where it cannot, add "
                + " ".join(f"--ignore-field {name}" for name in unread),
            )

    def dtype(self, default: str = "bfloat16") -> str:
        """The dtype of the weights: `dtype`, or `torch_dtype` as older configs spell it."""
        name = "dtype" if "dtype" in self else "torch_dtype"
        value = self.text(name, default)
        if value not in ("bfloat16", "float16", "float32"):
            self.refuse(name, f"is {value!r}", "farspan knows bfloat16, float16 and float32")
        return value
