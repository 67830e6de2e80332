"""Sizes as people write them: 10k and 2M are decimal, 2Mi is binary, GiB is 2^30 bytes."""

from __future__ import annotations

import re

from farspan.errors import InputError

_FACTORS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
}
_POWER = re.compile(r"\s*([0-9]+)[eE]\+?0?([0-9])\s*")
_PATTERN = re.compile(r"\s*([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")

GIB = 2**30


LONGEST_WORDS = ("max", "auto", "longest", "full")  # what people write for the longest context that fits


def parse_tokens(text: str) -> int:
    """Parse a token count such as `8192`, `10k`, `6.5M` or `2Mi`.

    Raises:
        InputError: The text is not a positive whole number of tokens.
    """
    match = _PATTERN.fullmatch(text)
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        if text.strip().lower() in LONGEST_WORDS:
            raise InputError(
                f"{text!r} is not a token count here",
                "farspan plan MODEL --gpus GPUS --context max tells the longest that fits",
            )
        if "," in text and all(_PATTERN.fullmatch(part.strip()) for part in text.split(",")):
            raise InputError(f"{text!r} is several token counts", "give one here; several go with --contexts")
        power = _POWER.fullmatch(text)
        meant = (
            format_tokens(int(power.group(1)) * 10 ** int(power.group(2)))
            if power
            else "8192, 10k, 6.5M or 2Mi"
        )
        raise InputError(f"{text!r} is not a token count", f"write it as {meant}")
    number = match.group(1).replace("_", "").replace(",", "")
    whole, _, fraction = number.partition(".")
    scale = int(10 ** len(fraction))
    value, remainder = divmod(int(whole + fraction) * factor, scale)
    if remainder or value <= 0:
        raise InputError(f"{text!r} is not a positive whole number of tokens", "write it as 8192, 10k or 2Mi")
    return value


def parse_token_list(text: str) -> tuple[int, ...]:
    """Parse a comma-separated list of token counts, such as `10k,100k,1M`; order is kept."""
    parts = [part for part in text.split(",") if part.strip()]
    if not parts:
        raise InputError(f"{text!r} names no token count", "write a list such as 10k,100k,1M")
    return tuple(parse_tokens(part) for part in parts)


def format_tokens(count: int) -> str:
    """Write a token count the shortest exact way: 10000000 as `10M`, 65536 as `64Ki`, 12345 as `12,345`."""
    for factor, unit in ((10**6, "M"), (2**20, "Mi")):
        if count >= factor and count % factor == 0:
            return f"{count // factor}{unit}"
    if count >= 10**6 and count % 10**5 == 0:
        return f"{count / 10**6:.1f}M"
    for factor, unit in ((10**3, "k"), (2**10, "Ki")):
        if count >= factor and count % factor == 0:
            return f"{count // factor}{unit}"
    return f"{count:,}"


def format_bytes(count: float) -> str:
    """Write a byte count with a binary unit, three significant digits: `89.7 GiB`, `512 MiB`, `24.0 KiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            digits = 0 if unit == "B" or abs(value) >= 100 else 1
            return f"{value:.{digits}f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


_BYTES: dict[str, int] = {"": 1, "b": 1} | {
    f"{letter}{unit}": base**power
    for power, letter in enumerate("kmgt", 1)
    for unit, base in (("b", 1000), ("ib", 1024), ("i", 1024))
}


def parse_bytes(text: str) -> int:
    """Parse a number of bytes: `64GiB`, `1.5GiB`, `512MiB`, `80GB` (decimal) or `1048576`.

    Raises:
        InputError: The text is not one.
    """
    match = _PATTERN.fullmatch(text)
    factor = _BYTES.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        raise InputError(f"{text!r} is not a number of bytes", "write it as 64GiB, 512MiB or 80GB")
    whole, _, fraction = match.group(1).replace("_", "").replace(",", "").partition(".")
    return int(whole + fraction) * factor // int(10 ** len(fraction))


_SECONDS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"([0-9]*\.?[0-9]+)\s*(ms|sec|s|min|m|h)\s*", re.IGNORECASE)
_DURATION = re.compile(rf"\s*(?:[0-9]*\.?[0-9]+\s*|(?:{_DURATION_PART.pattern})+)", re.IGNORECASE)


def parse_seconds(text: str) -> float:
    """Parse a duration above 0: `50ms`, `60s`, `2min`, `1h`, `1h30m`; seconds without a unit.

    Raises:
        InputError: It is not one.
    """
    parts = _DURATION_PART.findall(text)
    seconds = 0.0
    if _DURATION.fullmatch(text):
        seconds = (
            sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts) if parts else float(text)
        )
    if seconds <= 0:
        raise InputError(f"{text!r} is not a duration", "write it as 50ms, 60s or 2min")
    return seconds


def format_seconds(seconds: float) -> str:
    """Write a duration for a person: `3.2 ms`, `4.81 s`, `2 min 05 s`, `1 h 02 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 119.5:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
