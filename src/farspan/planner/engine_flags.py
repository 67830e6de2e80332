"""Reading what stands after `--`: flags the way the engines' own parsers do, and environment variables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from farspan.errors import InputError
from farspan.models.spec import KvDtype, parse_kv_dtype

KV_DTYPE_FLAG = "--kv-cache-dtype"  # of every engine

# vLLM's short names (0.32.0 engine/arg_utils.py), written out; SGLang has none.
_SHORT = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-dcp": "--decode-context-parallel-size",
    "-pcp": "--prefill-context-parallel-size",
    "-ep": "--enable-expert-parallel",
    "-q": "--quantization",
    "-sc": "--speculative-config",
    "-cc": "--compilation-config",
    "-ac": "--attention-config",
    "-dc": "--diffusion-config",
    "-n": "--nnodes",
    "-r": "--node-rank",
}
# What argparse takes for the name of a flag: a value such as `- item`, or a document that begins with ---, is none.
_NAME = re.compile(r"--?[^\s=-][^\s=]*(=.*)?", re.DOTALL)
_NUMBER = re.compile(r"-(\d+|\d*\.\d+)")
_DEEPEST = 64
_MOST_DIGITS = 300  # what a float can hold
_HUGE_NUMBER = re.compile(rf"\d{{{_MOST_DIGITS + 1}}}")
_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)  # one without an end runs to the text's
_BRACKET = re.compile(r"[\[\]{}]")
_VARIABLE = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)", re.DOTALL)


class JoinedValue(str):
    """A value that begins with a dash and was written behind `=`: as a word of its own an engine would take it for a
    flag, whatever blanks and line breaks it holds."""

    __slots__ = ()


def is_flag(word: str) -> bool:
    """Whether a word is a flag, alone or with its value behind `=`; numbers and words with blanks are values."""
    return _NAME.fullmatch(word) is not None and _NUMBER.fullmatch(word) is None


def flag_words(name: str, value: str | None) -> tuple[str, ...]:
    """The words that give an engine this flag and exactly this value; a value like a flag stands behind `=`, and one
    that begins with a dash where the user put it."""
    if value is None:
        return (name,)
    return (f"{name}={value}",) if is_flag(value) or isinstance(value, JoinedValue) else (name, value)


def parse_engine_flags(words: Sequence[str]) -> dict[str, str | None]:
    """Turn `--name value`, `--name=value` and switches into a map; a switch maps to None.

    Underscores in names mean dashes, as in vLLM; several values after one name are joined by spaces; a flag
    given twice keeps its last value, as argparse does. `NAME=VALUE` in capitals is an environment variable
    and keeps its name: keys without dashes are variables.

    Raises:
        InputError: A word follows no flag, or a value is a number or a nesting beyond all reading.
    """
    flags: dict[str, str | None] = {}
    name = ""
    for word in words:
        variable = _VARIABLE.fullmatch(word)
        if variable is not None:
            flags[variable.group(1)] = variable.group(2)
            name = ""
        elif is_flag(word):
            name, equals, value = word.partition("=")
            name = _SHORT.get(name, name)
            name = "--" + name.lstrip("-").replace("_", "-")
            dashed = value.startswith("-") and _NUMBER.fullmatch(value) is None
            flags[name] = JoinedValue(value) if dashed else value if equals else None
            if equals:
                name = ""
        elif not name:
            size = re.fullmatch(r"[0-9][0-9_,.]*[kKmM]i?", word)
            meant = f"did you mean --context {word}? " if size else ""
            raise InputError(
                f"{word!r} belongs to no engine flag",
                f"{meant}write engine flags behind -- as --name value, variables as NAME=value",
            )
        else:
            before = flags[name]
            flags[name] = word if before is None else f"{before} {word}"
    for name, given in flags.items():
        _check_size(name, given or "")
    return flags


def _check_size(name: str, value: str) -> None:
    """Check that a value can be read, however it is read later: as a number, or as JSON.

    Raises:
        InputError: It is a number of hundreds of digits, or nested as no engine's options are.
    """
    bare = _JSON_TEXT.sub("", value)
    if _HUGE_NUMBER.search(bare):
        raise InputError(f"{name} has a number of more than {_MOST_DIGITS} digits", "write one it can take")
    depth = 0
    for bracket in _BRACKET.findall(bare):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        if depth > _DEEPEST:
            raise InputError(f"{name} is nested more than {_DEEPEST} deep", "write options it can take")


def split_environment(
    flags: Mapping[str, str | None],
) -> tuple[dict[str, str | None], dict[str, str]]:
    """Flags, and environment variables, apart."""
    given = {name: value for name, value in flags.items() if name.startswith("-")}
    return given, {name: value or "" for name, value in flags.items() if name not in given}


def check_kv_dtypes(given: KvDtype, flags: Mapping[str, str | None]) -> None:
    """Refuse two KV cache types of which one would be passed over.

    Args:
        given: What `--kv-dtype` says.
        flags: The engine's own flags, with what `KV_DTYPE_FLAG` says.

    Raises:
        InputError: They differ, or the flag's is no such type.
    """
    flag = flags.get(KV_DTYPE_FLAG)
    if given is KvDtype.AUTO or flag is None:
        return
    asked = parse_kv_dtype(flag)
    same = {given, asked} <= {KvDtype.FP8, KvDtype.FP8_E4M3}
    if asked is not given and not same:
        raise InputError(f"--kv-dtype {given.value} and {KV_DTYPE_FLAG} {flag} differ", "give one of them")
