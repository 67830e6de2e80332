"""A word behind the model that belongs to no option: GPUs, an engine or a length that was meant to have one."""

from __future__ import annotations

import re

import click

from farspan.engines.registry import engine_names
from farspan.errors import InputError
from farspan.hardware.node_spelling import parse_node
from farspan.sizes import parse_token_list


def refuse_stray(
    context: click.Context, parameter: click.Parameter, words: tuple[str, ...]
) -> tuple[str, ...]:
    """Return engine flags as they are, unless they begin with a word that is none.

    Raises:
        InputError: They do, and what the word means is known.
    """
    del parameter
    word = words[0] if words else ""
    if word and not word.startswith("-") and "=" not in word:
        options = {name for one in context.command.params for name in one.opts}
        meant = next((option for option in _meanings(word) if option in options), "")
        if meant:
            raise InputError(f"{word!r} stands without its option", f"write {meant} {word}")
    return words


def _meanings(word: str) -> list[str]:
    """The options that a word may be a value of, the likeliest first."""
    if word.lower() in engine_names():
        return ["--engine"]
    if re.fullmatch(r"v?\d+\.\d+\.\d+\S*", word):
        return ["--engine-version"]
    try:
        lengths = parse_token_list(word)
    except InputError:
        pass
    else:
        return ["--contexts"] if len(lengths) > 1 else ["--context"]
    try:
        parse_node(word)
    except InputError:
        return []
    return ["--gpus"]
