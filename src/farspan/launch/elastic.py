"""`farspan serve --elastic`: the engine's flags for it, the variables that go along, whether it can be there at all."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from farspan.errors import UnsupportedError
from farspan.kv.memory.budget.budget_file import FOLDER_VARIABLE
from farspan.kv.memory.budget.settings import FLOOR_VARIABLE, LIMIT_VARIABLE, NAME_VARIABLE, budget_settings
from farspan.planner.engine_flags import parse_engine_flags, split_environment
from farspan.planner.remarks import ELASTIC_ALWAYS

if TYPE_CHECKING:
    from farspan.launch.serve_options import ServeOptions

_VARIABLES = (
    NAME_VARIABLE,
    LIMIT_VARIABLE,
    FLOOR_VARIABLE,
    FOLDER_VARIABLE,
    "FARSPAN_QUIET_S",
    "FARSPAN_KV_POOLS",
)


def with_elastic(options: ServeOptions) -> ServeOptions:
    """Return the options with what --elastic adds to the engine's own flags and variables.

    Variables of this program's environment go along, so that a container has them too.

    Raises:
        InputError: A flag or a variable says otherwise, or cannot be read.
        MissingPackageError: The Python of the engine has no plug-in.
        UnsupportedError: The engine has no elastic KV cache, or its public image no plug-in.
    """
    if not options.elastic:
        return options
    words = options.engine.with_elastic(options.words)
    given = split_environment(parse_engine_flags(words))[1]
    carried = {
        name: options.environment[name]
        for name in _VARIABLES
        if options.environment.get(name) and name not in given
    }
    budget_settings({**carried, **given})
    if options.engine.elastic_words():
        if options.runtime == "local":
            options.engine.check_elastic(options.python or sys.executable)
        elif not options.image:
            public = options.engine.image(options.engine_version or options.engine.newest_version)
            raise UnsupportedError(
                f"--elastic needs farspan in the image, and {public} has none",
                f"build one (FROM {public}, RUN pip install 'farspan[sglang]') and name it with --image",
            )
    return replace(options, words=(*(f"{name}={value}" for name, value in carried.items()), *words))


def elastic_notes(options: ServeOptions) -> tuple[str, ...]:
    """Return what a user of --elastic must know."""
    if not options.elastic:
        return ()
    notes = () if options.engine.elastic_words() else (ELASTIC_ALWAYS,)
    variables = split_environment(parse_engine_flags(options.words))[1]
    if options.runtime == "local" or NAME_VARIABLE not in variables:
        return notes
    where = (
        "--docker-arg=--volume=HOST:CONTAINER"
        if options.runtime == "docker"
        else "a volume of their pod or machine"
    )
    return (
        *notes,
        f"Servers share the budget {variables[NAME_VARIABLE]} when they see the same folder {FOLDER_VARIABLE} as the "
        f"same user: {where}; see docs/kv-budget.md.",
    )
