"""Names and codes to plant: invented, so that no corpus holds them."""

# ruff: noqa: SIM905 - word lists read better as text

from __future__ import annotations

import random

from farspan.errors import InputError

_QUALITIES = (
    "amber azure cobalt coral crimson ebony emerald indigo ivory jade lilac maroon ochre olive opal pearl ruby saffron "
    "scarlet teal topaz turquoise umber violet"
).split()
_OBJECTS = (
    "vault archive depot hangar bunker strongroom safe locker cabinet dossier satchel turbine beacon capsule reactor "
    "silo relay kiosk airlock terminal"
).split()
_BEGINNINGS = "Bal Cor Dra Fel Gor Hel Jor Kel Lor Mer Nor Or Pel Quor Ral Sel Tor Ul Vel Zor".split()
_MIDDLES = "a e i o u an en in on un ar er ir or ur".split()
_ENDS = "bek dal dis fax gan grim hov kis lund mik nost pol rad sk tov vik wen xas zam zeth".split()


def places(count: int, choice: random.Random) -> list[str]:
    """Return different place names, such as `Velingrim`; at most 6,000."""
    size = len(_BEGINNINGS) * len(_MIDDLES) * len(_ENDS)
    return [_place(number) for number in draw(size, count, choice)]


def objects(count: int, choice: random.Random) -> list[str]:
    """Return different things with a place, such as `cobalt vault of Velingrim`; at most 2,880,000."""
    each = len(_QUALITIES) * len(_OBJECTS)
    size = each * len(_BEGINNINGS) * len(_MIDDLES) * len(_ENDS)
    found = []
    for number in draw(size, count, choice):
        place, rest = divmod(number, each)
        quality, thing = divmod(rest, len(_OBJECTS))
        found.append(f"{_QUALITIES[quality]} {_OBJECTS[thing]} of {_place(place)}")
    return found


def codes(count: int, choice: random.Random) -> list[str]:
    """Return different numbers of seven digits."""
    return [str(1_000_000 + number) for number in draw(9_000_000, count, choice)]


def draw(size: int, count: int, choice: random.Random) -> list[int]:
    """Return different numbers below `size`.

    Raises:
        InputError: There are not so many.
    """
    if count > size:
        raise InputError(f"{count:,} different things cannot be planted", f"plant at most {size:,}")
    return choice.sample(range(size), count)


def _place(number: int) -> str:
    rest, end = divmod(number, len(_ENDS))
    beginning, middle = divmod(rest, len(_MIDDLES))
    return _BEGINNINGS[beginning] + _MIDDLES[middle] + _ENDS[end]
