"""Frozen records that are compared by value and hashed once."""

from __future__ import annotations

from dataclasses import fields


class ValueHash:
    """The hash of a frozen dataclass by its fields, worked out when first asked for and then kept.

    A model is thousands of values, and a sweep of ten thousand points looks it up in caches a hundred thousand
    times. Equal records have equal hashes, as long as every field is hashable; the hash is left out of copies
    and pickles, since strings hash differently in every process. A subclass says `__hash__ = ValueHash.__hash__`,
    else `dataclass` writes one of its own.
    """

    __slots__ = ("_hash",)
    _hash: int

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            value = hash(tuple([getattr(self, each.name) for each in fields(self)]))  # type: ignore[arg-type]
            object.__setattr__(self, "_hash", value)
            return value
